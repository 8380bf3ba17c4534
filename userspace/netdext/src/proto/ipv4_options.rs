//! The IPv4 options of an echo request, brought up to date for its reply (RFC 791, 3.1; RFC 1122, 3.2.2.6).

use super::Refusal;
use super::bytes::put;
use crate::dispatch::Timestamp;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Set in a timestamp that does not count milliseconds since midnight (RFC 791).
const NON_STANDARD_TIME: u32 = 1 << 31;

/// Adds us to a recorded route and to timestamps, and leaves all other options as they are.
///
/// # Errors
///
/// [`Refusal::Ipv4SourceRoute`] and [`Refusal::BadIpv4Options`]; the options may have been changed then.
pub(super) fn record(options: &mut [u8], own: [u8; 4], now: Timestamp) -> Result<(), Refusal> {
    let mut rest = options;
    while let [kind, ..] = *rest {
        match kind {
            END => break,
            NO_OPERATION => {
                rest = &mut rest[1..];
                continue;
            }
            _ => {}
        }
        let len = rest.get(1).copied().map_or(0, usize::from);
        if len < 2 || len > rest.len() {
            return Err(Refusal::BadIpv4Options);
        }
        let (option, behind) = rest.split_at_mut(len);
        match kind {
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Refusal::Ipv4SourceRoute),
            RECORD_ROUTE => record_route(option, own)?,
            TIMESTAMP => record_timestamp(option, own, now)?,
            _ => {}
        }
        rest = behind;
    }
    Ok(())
}

/// Where the option's pointer, which counts from 1, leads; it must be behind the `fixed` first bytes.
fn pointer(option: &[u8], fixed: usize) -> Result<usize, Refusal> {
    match option.get(2) {
        Some(&pointer) if usize::from(pointer) > fixed => Ok(usize::from(pointer) - 1),
        _ => Err(Refusal::BadIpv4Options),
    }
}

fn record_route(option: &mut [u8], own: [u8; 4]) -> Result<(), Refusal> {
    let at = pointer(option, 3)?;
    // A full route is passed on as it is.
    if at + 4 <= option.len() {
        put(option, at, own);
        option[2] += 4;
    }
    Ok(())
}

fn record_timestamp(option: &mut [u8], own: [u8; 4], now: Timestamp) -> Result<(), Refusal> {
    let at = pointer(option, 4)?;
    let flags = *option.get(3).ok_or(Refusal::BadIpv4Options)?;
    let millis = (now.as_nanos() / 1_000_000) as u32 | NON_STANDARD_TIME;
    let entry = match flags & 0x0f {
        0 => 4,
        1 | 3 => 8,
        _ => return Err(Refusal::BadIpv4Options),
    };
    if at + entry > option.len() {
        // No room: counted in the upper half of the flags, which must not run over (RFC 791).
        option[3] = flags.checked_add(0x10).ok_or(Refusal::BadIpv4Options)?;
        return Ok(());
    }
    match flags & 0x0f {
        1 => put(option, at, own),
        // The sender says who is to add a timestamp.
        3 if option[at..at + 4] != own => return Ok(()),
        _ => {}
    }
    put(option, at + entry - 4, millis.to_be_bytes());
    option[2] += entry as u8;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: [u8; 4] = [198, 18, 0, 1];
    const NOW: Timestamp = Timestamp::from_nanos(0x0102_0304 * 1_000_000);

    fn recorded(options: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut options = options.to_vec();
        record(&mut options, OWN, NOW).map(|()| options)
    }

    #[test]
    fn our_address_is_added_to_a_recorded_route() {
        assert_eq!(
            recorded(&[1, 7, 11, 8, 9, 9, 9, 9, 0, 0, 0, 0]).unwrap(),
            [1, 7, 11, 12, 9, 9, 9, 9, 198, 18, 0, 1]
        );
    }

    #[test]
    fn a_full_route_is_passed_on_as_it_is() {
        let full = [7, 7, 8, 9, 9, 9, 9, 0];
        assert_eq!(recorded(&full).unwrap(), full);
    }

    #[test]
    fn a_timestamp_is_added_and_marked_as_not_the_time_of_day() {
        assert_eq!(recorded(&[68, 8, 5, 0, 0, 0, 0, 0]).unwrap(), [68, 8, 9, 0, 0x81, 2, 3, 4]);
        assert_eq!(
            recorded(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap(),
            [68, 12, 13, 1, 198, 18, 0, 1, 0x81, 2, 3, 4]
        );
    }

    #[test]
    fn a_prespecified_timestamp_is_added_only_where_we_are_named() {
        let other = [68, 12, 5, 3, 9, 9, 9, 9, 0, 0, 0, 0];
        assert_eq!(recorded(&other).unwrap(), other);
        assert_eq!(
            recorded(&[68, 12, 5, 3, 198, 18, 0, 1, 0, 0, 0, 0]).unwrap(),
            [68, 12, 13, 3, 198, 18, 0, 1, 0x81, 2, 3, 4]
        );
    }

    #[test]
    fn a_timestamp_without_room_is_counted_until_the_count_runs_over() {
        assert_eq!(recorded(&[68, 4, 5, 0x20]).unwrap(), [68, 4, 5, 0x30]);
        assert_eq!(recorded(&[68, 4, 5, 0xf0]), Err(Refusal::BadIpv4Options));
    }

    #[test]
    fn a_source_route_is_refused_wherever_it_stands() {
        assert_eq!(recorded(&[131, 7, 4, 1, 2, 3, 4, 0]), Err(Refusal::Ipv4SourceRoute));
        assert_eq!(recorded(&[1, 137, 7, 4, 1, 2, 3, 4]), Err(Refusal::Ipv4SourceRoute));
    }

    #[test]
    fn options_that_contradict_themselves_are_refused() {
        for bad in [&[7][..], &[7, 0], &[7, 1], &[7, 9, 4, 0], &[7, 2], &[7, 3, 0], &[7, 3, 3], &[68, 3, 5]] {
            assert_eq!(recorded(bad), Err(Refusal::BadIpv4Options), "{bad:?}");
        }
        assert_eq!(recorded(&[68, 8, 5, 2, 0, 0, 0, 0]), Err(Refusal::BadIpv4Options), "unknown flag");
    }

    #[test]
    fn unknown_options_and_what_follows_the_end_are_left_alone() {
        let options = [148, 4, 0, 0, 0, 7, 9, 9];
        assert_eq!(recorded(&options).unwrap(), options);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut options in prop::collection::vec(any::<u8>(), 0..=40), kind in 0..3_usize) {
            if let Some(first) = options.first_mut() {
                *first = [*first, RECORD_ROUTE, TIMESTAMP][kind];
            }
            let _ = record(&mut options, OWN, NOW);
        }
    }
}
