//! Requests and answers.

use std::time::Instant;

use netdext_daemon::control::list::ListEntry;
use netdext_daemon::control::protocol::{ErrorCode, Request, Selector, ServerInfo};
use netdext_daemon::control::{Client, ClientError, RuntimeDir, ServerConfig, SocketName};

use crate::fixture::{Fixture, LARGE, SLOW, SOON, entry, quick};

fn on(iface: &str) -> Selector {
    Selector { iface: Some(iface.to_owned()), ..Selector::default() }
}

#[test]
fn one_connection_carries_many_requests_and_survives_errors() {
    let fixture = Fixture::start(quick());
    let mut client = fixture.client();
    for _ in 0..100 {
        let info: ServerInfo = client.request(&Request::Hello {}).unwrap();
        assert_eq!((info.pid, client.pid()), (std::process::id(), Some(std::process::id())));
        let error = client.request::<()>(&Request::Enable { driver: Selector::default() }).unwrap_err();
        assert!(
            matches!(&error, ClientError::Refused(object) if object.code == ErrorCode::NotFound),
            "{error}"
        );
    }
    let large: String = client.request(&Request::Ioreg {}).unwrap();
    assert_eq!(large.len(), LARGE);
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    let driver = r#""args":{"driver":{}}"#;
    let lines = format!(
        "{{\"v\":2,\"id\":5,\"op\":\"reload\",{driver}}}\n{{\"v\":2,\"id\":4,\"op\":\"enable\",{driver}}}\n\
         {{\"v\":2,\"id\":3,\"op\":\"list\"}}\n"
    );
    assert!(raw.write(lines.as_bytes()));
    let answers: Vec<_> = (0..3).map(|_| raw.read().unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), [Some(5), Some(4), Some(3)]);
    assert_eq!(answers.iter().map(|answer| answer.result.is_ok()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_mistake_is_an_answer_and_the_connection_stays() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    let table = [
        ("", ErrorCode::BadRequest, None),
        ("hello", ErrorCode::BadRequest, None),
        (r#"{"v":2,"id":1,"op":"fly"}"#, ErrorCode::BadRequest, Some(1)),
        (r#"{"v":2,"id":2,"op":"list","now":true}"#, ErrorCode::BadRequest, Some(2)),
        (r#"{"v":2,"id":3,"op":"list","args":{"all":1}}"#, ErrorCode::BadRequest, Some(3)),
        (r#"{"v":2,"id":4,"op":"stats","args":{"driver":"veth0"}}"#, ErrorCode::BadRequest, Some(4)),
        (r#"{"v":9,"id":5,"op":"list"}"#, ErrorCode::Version, Some(5)),
    ];
    for (line, code, id) in table {
        let answer = raw.ask(line);
        assert_eq!(answer.id, id, "{line}");
        assert_eq!(answer.result.unwrap_err().code, code, "{line}");
    }
    assert!(raw.ask(r#"{"v":2,"id":6,"op":"hello"}"#).result.is_ok());
}

#[test]
fn a_request_that_is_dropped_is_answered_as_a_failure() {
    let fixture = Fixture::start(quick());
    let dropped = Request::DriverControl {
        driver: Selector::default(),
        name: "sleep".to_owned(),
        value: serde_json::Value::Null,
    };
    let error = fixture.client().request::<()>(&dropped).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(object) if object.code == ErrorCode::Failed), "{error}");
}

#[test]
fn a_slow_answer_holds_up_its_own_client_only() {
    let fixture = Fixture::start(quick());
    let mut slow = fixture.raw();
    assert!(slow.write(b"{\"v\":2,\"id\":1,\"op\":\"reload\",\"args\":{\"driver\":{}}}\n"));
    let asked = Instant::now();
    fixture.client().request::<ServerInfo>(&Request::Hello {}).unwrap();
    assert!(asked.elapsed() < SLOW, "{:?}", asked.elapsed());
    assert!(slow.read().unwrap().result.is_ok());
}

#[test]
fn a_client_gives_up_on_an_answer_in_time() {
    let fixture = Fixture::start(quick());
    let mut client = fixture.client();
    client.set_timeout(SLOW / 10);
    let error = client.request::<String>(&Request::Reload { driver: Selector::default() }).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, ClientError::TimedOut { pid: Some(found), .. } if found == pid), "{error}");
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
}

#[test]
fn a_server_that_stops_still_answers_what_was_asked_and_removes_its_socket() {
    let mut fixture = Fixture::start(quick());
    let (mut busy, mut idle) = (fixture.raw(), fixture.raw());
    assert!(idle.ask(r#"{"v":2,"id":1,"op":"hello"}"#).result.is_ok());
    assert!(busy.write(b"{\"v\":2,\"id\":1,\"op\":\"reload\",\"args\":{\"driver\":{}}}\n"));
    std::thread::sleep(SLOW / 3);
    fixture.begin_stop();
    assert_eq!(busy.read().unwrap().result, Ok("reloaded".into()));
    assert!(busy.read().is_none() && idle.read().is_none());
    fixture.stop();
    assert!(!fixture.path.exists() && !fixture.dir.path().exists());
    let error = Client::connect(&fixture.path).unwrap_err();
    assert!(error.is_gone(), "{error}");
}

#[test]
fn a_server_that_is_gone_is_noticed() {
    let mut fixture = Fixture::start(quick());
    let mut client = fixture.client();
    client.request::<ServerInfo>(&Request::Hello {}).unwrap();
    fixture.stop();
    let error = client.request::<ServerInfo>(&Request::Hello {}).unwrap_err();
    assert!(error.is_gone(), "{error}");
}

#[test]
fn other_users_are_refused() {
    let fixture = Fixture::start(ServerConfig { users: Vec::new(), ..quick() });
    let error = fixture.client().request::<ServerInfo>(&Request::Hello {}).unwrap_err();
    assert!(error.is_permission(), "{error}");
}

#[test]
fn without_a_netdext_the_client_says_what_to_start() {
    let temp = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(temp.path());
    // A socket whose process is gone counts as none.
    drop(std::os::unix::net::UnixListener::bind(dir.socket(SocketName::Run(1))).unwrap());
    let error = Client::all(&dir).unwrap_err();
    assert!(matches!(error, ClientError::NoneRunning { .. }), "{error}");
    assert!(error.to_string().contains("start `netdext run` or `netdext daemon`"), "{error}");
    let error = Client::daemon(&dir).unwrap_err();
    assert!(error.to_string().contains("start `netdext daemon`"), "{error}");
    assert!(error.is_gone());
}

#[test]
fn the_process_that_has_the_driver_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let start = |name, drivers| Fixture::start_in(RuntimeDir::at(temp.path()), name, quick(), drivers);
    let daemon = start(SocketName::Daemon, vec![entry("veth0"), entry("veth2")]);
    let run = start(SocketName::Run(7), vec![entry("veth4")]);
    let dir = &daemon.dir;

    let paths: Vec<_> = Client::all(dir).unwrap().iter().map(|client| client.path().to_owned()).collect();
    assert_eq!(paths, [daemon.path.clone(), run.path.clone()]);
    for (iface, path) in [("veth0", &daemon.path), ("veth2", &daemon.path), ("veth4", &run.path)] {
        let (mut client, found) = Client::for_driver(dir, &on(iface)).unwrap();
        assert_eq!((client.path(), &found), (path.as_path(), &entry(iface)));
        assert_eq!(found.selector(), Selector { iface: Some(iface.to_owned()), ..entry("any").selector() });
        assert!(client.request::<ServerInfo>(&Request::Hello {}).is_ok());
    }
    let error = Client::for_driver(dir, &on("veth1")).unwrap_err();
    assert!(matches!(error, ClientError::NotFound { .. }), "{error}");
    let error = Client::for_driver(dir, &Selector::default()).unwrap_err();
    assert!(matches!(&error, ClientError::Ambiguous { found, .. } if found.len() == 3), "{error}");
    assert!(error.to_string().contains("A123456789 org.netdext.sample on veth4"), "{error}");
}

#[test]
fn a_process_that_is_stuck_does_not_hide_the_others() {
    let temp = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(temp.path());
    let run = Fixture::start_in(dir.clone(), SocketName::Run(7), quick(), vec![entry("veth4")]);
    let _stuck = std::os::unix::net::UnixListener::bind(dir.socket(SocketName::Daemon)).unwrap();
    let begun = Instant::now();
    let (mut client, _) = Client::for_driver(&dir, &on("veth4")).unwrap();
    assert_eq!(client.path(), run.path);
    assert_eq!(client.request::<Vec<ListEntry>>(&Request::List {}).unwrap(), [entry("veth4")]);
    let error = Client::for_driver(&dir, &on("veth0")).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
