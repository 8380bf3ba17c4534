//! The limit of answers per source; what is answered is tested against the driver, in its crate and in the kernel.

use netdext_abi::answer::admit;
use netdext_abi::checksum::{fold, sum};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// Answers that a source gets that asks every `step` ns for `time` ns.
fn admitted(rate: u64, step: u64, time: u64) -> u64 {
    let mut due = 0;
    let mut count = 0;
    let mut now = 77 * SECOND;
    let end = now + time;
    while now < end {
        if let Some(next) = admit(due, now, SECOND / rate) {
            due = next;
            count += 1;
        }
        now += step;
    }
    count
}

#[test]
fn a_source_gets_a_seconds_worth_at_once_and_then_its_rate() {
    for rate in [1, 3, 10, 1000] {
        assert_eq!(admitted(rate, 1, 10_000), rate, "at once");
    }
    // Asking ten times as often as allowed, for ten seconds: the burst, and then ten seconds of the rate.
    let answers = admitted(100, SECOND / 1000, 10 * SECOND);
    assert!((1095..=1100).contains(&answers), "{answers}");
}

#[test]
fn a_source_below_its_rate_is_never_refused() {
    assert_eq!(admitted(100, SECOND / 100, 20 * SECOND), 2000);
    assert_eq!(admitted(1, SECOND, 20 * SECOND), 20);
}

#[test]
fn a_source_that_was_refused_is_heard_again_after_one_interval() {
    let (now, interval) = (SECOND, SECOND / 4);
    let due = now + SECOND;
    assert_eq!(admit(due, now, interval), None);
    assert_eq!(admit(due, now + interval - 1, interval), None);
    assert_eq!(admit(due, now + interval, interval), Some(due + interval));
}

proptest! {
    #[test]
    fn the_pieces_of_a_sum_add_up_to_the_sum(
        data in proptest::collection::vec(any::<u8>(), 0..4700), start in 0..64_usize
    ) {
        let start = start.min(data.len());
        let words = data[start..].chunks(2).map(|pair| {
            u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        });
        let expected = fold(words.sum());
        match sum(&data[..], start, data.len()) {
            Some(sum) => prop_assert_eq!(fold(sum), expected),
            None => prop_assert!(data.len() - start > 4607),
        }
        prop_assert_eq!(sum(&data[..], start, data.len() + 1), None);
    }
}
