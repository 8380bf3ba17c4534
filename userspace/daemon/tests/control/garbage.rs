//! Whatever is sent, the server answers or closes, and goes on.

use std::sync::OnceLock;

use netdext_daemon::control::ServerConfig;
use netdext_daemon::control::line::parse_request;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixture::{Fixture, quick};

/// Small, so that lines that are too long are frequent.
const LINE_BYTES: usize = 300;
/// The number of the request at the end.
const LAST: u64 = 999_999;

const REQUESTS: [&str; 4] = [
    r#"{"v":2,"id":1,"op":"hello"}"#,
    r#"{"v":2,"id":2,"op":"list","args":{}}"#,
    r#"{"v":2,"id":3,"op":"stats","args":{"driver":{"iface":"veth0"}}}"#,
    r#"{"v":2,"id":4,"op":"steer_add","args":{"driver":{},"rule":"drop:proto=udp,dport=53","yes":true}}"#,
];

/// One server for all cases.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| Fixture::start(ServerConfig { line_bytes: LINE_BYTES, ..quick() }))
}

/// Bytes that are rarely a request: noise, a request with bytes replaced, requests cut short, deep nesting.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let request = prop::sample::select(REQUESTS.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let replaced = (request.clone(), vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(
        |(mut bytes, changes)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    );
    let cut = (request, any::<prop::sample::Index>()).prop_map(|(mut bytes, at)| {
        bytes.truncate(at.index(bytes.len()));
        bytes
    });
    let deep = (1..2 * LINE_BYTES).prop_map(|depth| vec![b'['; depth]);
    prop_oneof![vec(any::<u8>(), 0..2 * LINE_BYTES), replaced, cut, deep]
}

proptest! {
    #[test]
    fn every_line_has_one_answer_until_one_is_too_long(lines in vec(line(), 1..8)) {
        let mut sent = lines.join(&b'\n');
        sent.extend_from_slice(format!("\n{{\"v\":2,\"id\":{LAST},\"op\":\"hello\"}}\n").as_bytes());
        let whole: Vec<&[u8]> = sent.split(|byte| *byte == b'\n').collect();
        let whole = &whole[..whole.len() - 1];
        let fitting = whole.iter().take_while(|line| line.len() <= LINE_BYTES).count();

        let mut raw = fixture().raw();
        let taken = raw.write(&sent);
        prop_assert!(taken || fitting < whole.len());
        for line in &whole[..fitting] {
            let answer = raw.read();
            prop_assert!(answer.is_some(), "no answer to {:?}", String::from_utf8_lossy(line));
            let expected = parse_request(line).map_or_else(|rejected| rejected.id, |(id, _)| Some(id));
            prop_assert_eq!(answer.and_then(|answer| answer.id), expected);
        }
        if fitting < whole.len() {
            prop_assert!(raw.read().is_some_and(|answer| answer.result.is_err()));
            prop_assert!(raw.read().is_none());
        }
    }

    #[test]
    fn reading_a_line_never_panics(bytes in vec(any::<u8>(), 0..600), requests in vec(line(), 1..3)) {
        // What it returns is tested elsewhere; any value will do here.
        let _ = parse_request(&bytes);
        let _ = parse_request(&requests.concat());
    }
}
