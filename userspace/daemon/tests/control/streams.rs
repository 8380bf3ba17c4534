//! Byte streams out of the server.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

use netdext_daemon::control::protocol::{Request, Selector, ServerInfo};

use crate::fixture::{Fixture, quick, wait_until};

fn capture(chunks: u32) -> Request {
    Request::Capture { driver: Selector::default(), filter: None, snaplen: None, ring_size: Some(chunks) }
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    assert_eq!(bytes.len() % 4096, 0, "chunks come whole");
    bytes.chunks(4096).map(|chunk| u32::from_le_bytes(chunk[..4].try_into().unwrap())).collect()
}

#[test]
fn a_stream_arrives_whole_and_ends_with_its_producer() {
    let fixture = Fixture::start(quick());
    let mut bytes = Vec::new();
    fixture.client().capture(&capture(4)).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(numbers(&bytes), [0, 1, 2, 3]);
}

#[test]
fn a_reader_that_pauses_stops_neither_producer_nor_other_clients_and_a_closed_one_ends_the_stream() {
    const CHUNKS: u32 = 20_000;
    let fixture = Fixture::start(quick());
    let mut paused = fixture.client().capture(&capture(CHUNKS)).unwrap();
    wait_until("the producer ends although nobody reads", || fixture.ended.load(Ordering::SeqCst) > 0);
    fixture.client().request::<ServerInfo>(&Request::Hello {}).unwrap();
    // Longer than an answer may wait to be read: a stream may.
    std::thread::sleep(quick().write + Duration::from_millis(100));
    let mut bytes = Vec::new();
    paused.read_to_end(&mut bytes).unwrap();
    let found = numbers(&bytes);
    assert!(found.is_sorted() && found[0] == 0, "what arrives is in order");
    assert!(found.len() < CHUNKS as usize, "the rest was dropped by the producer");

    // A producer that would never end by itself.
    let ended = fixture.ended.load(Ordering::SeqCst);
    let endless = fixture.client().capture(&capture(u32::MAX)).unwrap();
    drop(endless);
    wait_until("the producer hears that the client has gone", || {
        fixture.ended.load(Ordering::SeqCst) > ended
    });
}

#[test]
fn an_error_instead_of_a_stream_is_an_error() {
    let fixture = Fixture::start(quick());
    let request = Request::Enable { driver: Selector::default() };
    assert!(fixture.client().capture(&request).is_err());
}
