//! Clients that break the limits, and what others notice of it: nothing.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use netdext_daemon::control::protocol::{ErrorCode, Request, ServerInfo};
use netdext_daemon::control::{ClientError, ServerConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::fixture::{Fixture, LARGE, Raw, quick, wait_until};

const HELLO: &str = r#"{"v":2,"id":1,"op":"hello"}"#;

/// Another client is served at once.
fn assert_alive(fixture: &Fixture) {
    fixture.client().request::<ServerInfo>(&Request::Hello {}).unwrap();
}

#[test]
fn a_line_of_ten_mebibytes_is_refused_without_being_kept() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    let all_taken = raw.write(&vec![b'x'; 10 << 20]);
    assert!(!all_taken, "the server reads no further than the limit");
    assert_eq!(raw.read_error().code, ErrorCode::TooLong);
    assert!(raw.read().is_none());
    assert_alive(&fixture);
}

#[test]
fn the_longest_line_is_read_and_one_byte_more_is_not() {
    let fixture = Fixture::start(quick());
    let padded = |bytes: usize| format!("{HELLO}{}", " ".repeat(bytes - HELLO.len()));
    let mut raw = fixture.raw();
    assert!(raw.ask(&padded(1024 * 1024)).result.is_ok());
    assert_eq!(raw.ask(&padded(1024 * 1024 + 1)).result.unwrap_err().code, ErrorCode::TooLong);
    assert!(raw.read().is_none());
}

#[test]
fn half_a_line_and_silence_ends_in_time() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    assert!(raw.ask(HELLO).result.is_ok());
    let begun = Instant::now();
    assert!(raw.write(b"{\"v\":2,"));
    assert_alive(&fixture);
    assert_eq!(raw.read_error().code, ErrorCode::Busy);
    assert!(begun.elapsed() >= quick().half_line);
    assert!(raw.read().is_none());
}

#[test]
fn a_byte_now_and_then_does_not_extend_the_time_for_a_line() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    raw.stream.get_mut().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let begun = Instant::now();
    let ended = loop {
        raw.write(b" ");
        match raw.stream.read(&mut [0; 512]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => break read,
        }
        assert!(begun.elapsed() < quick().half_line * 20, "it goes on for ever");
    };
    assert!(ended.is_ok_and(|bytes| bytes > 0), "the reason is told first");
}

#[test]
fn half_a_line_and_the_end_is_told_to_who_still_listens() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    assert!(raw.write(HELLO.as_bytes()));
    raw.stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.read_error().code, ErrorCode::BadRequest);
}

#[test]
fn a_client_that_asks_nothing_is_sent_away() {
    let fixture = Fixture::start(ServerConfig { idle: Duration::from_millis(100), ..quick() });
    let mut raw = fixture.raw();
    assert_eq!(raw.read_error().code, ErrorCode::Busy);
    assert!(raw.read().is_none());
}

#[test]
fn a_watcher_may_pause_for_longer_than_a_line_may_take() {
    let fixture = Fixture::start(ServerConfig { half_line: Duration::from_millis(50), ..quick() });
    let mut raw = fixture.raw();
    for _ in 0..3 {
        assert!(raw.ask(HELLO).result.is_ok());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let fixture = Fixture::start(quick());
    let mut raw = fixture.raw();
    assert!(raw.write(b"{\"v\":2,\"id\":1,\"op\":\"ioreg\"}\n"));
    assert_alive(&fixture);
    std::thread::sleep(quick().write * 2);
    let mut received = Vec::new();
    // Cut off may show as an end or as a reset.
    let _ = raw.stream.read_to_end(&mut received);
    assert!(received.len() < LARGE, "{} bytes", received.len());
    assert_alive(&fixture);
}

#[test]
fn of_a_thousand_clients_at_once_each_has_an_answer() {
    allow_descriptors();
    let limit = quick().clients;
    let fixture = Fixture::start(ServerConfig { half_line: Duration::from_secs(60), ..quick() });
    let mut clients: Vec<Raw> = (0..1000).map(|_| fixture.raw()).collect();
    for client in &mut clients {
        // Who was refused may be closed already.
        client.write(format!("{HELLO}\n").as_bytes());
    }
    let answers: Vec<_> = clients.iter_mut().map(|client| client.read().expect("an answer")).collect();
    let served = answers.iter().filter(|answer| answer.result.is_ok()).count();
    assert_eq!(served, limit);
    assert!(answers.iter().all(|answer| match &answer.result {
        Ok(_) => answer.id == Some(1),
        Err(error) => answer.id.is_none() && error.code == ErrorCode::Busy,
    }));
    let refused = fixture.client().request::<ServerInfo>(&Request::Hello {}).unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(error) if error.code == ErrorCode::Busy), "{refused}");
    drop(clients);
    wait_until("the next client is served", || {
        fixture.client().request::<ServerInfo>(&Request::Hello {}).is_ok()
    });
}

/// Both ends of a thousand connections are in this process.
fn allow_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(maximum.is_none_or(|maximum| maximum >= 2048), "the limit of descriptors is {maximum:?}");
    setrlimit(
        Resource::Nofile,
        Rlimit { current: Some(maximum.map_or(4096, |most| most.min(4096))), maximum },
    )
    .unwrap();
}
