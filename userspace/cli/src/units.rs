//! Values with units on the command line. Each error shows an example.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use netdext::proto::probe::Stamp;

/// The shortest interval of a timer.
const MIN_INTERVAL: Duration = Duration::from_micros(10);
/// The longest interval of a timer.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// A duration such as `5s`, `100us` or `1m 30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "not a duration; for example 5s, 250ms or 100us".to_owned())
}

/// A duration that is not 0.
pub fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout.is_zero() { Err("0 waits for nothing; for example 1s".to_owned()) } else { Ok(timeout) }
}

/// How many requests: 1 or more.
pub fn requests<N: FromStr + PartialEq + From<u8>>(text: &str) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| *number != N::from(0));
    number.ok_or_else(|| "not a number of requests from 1 on; for example 8".to_owned())
}

/// Bytes of an echo request's payload, which has its send time and its number in it.
pub fn payload(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes >= Stamp::LEN);
    bytes.ok_or_else(|| format!("not a number of bytes from {} on; for example 56", Stamp::LEN))
}

/// An interval of the injector: a duration from 10 us to a day.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err("an interval is from 10us to 24h; for example 5s".to_owned())
    }
}

/// The time from one look at the counts to the next: 100 ms to an hour.
pub fn watch_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("from 100ms to 1h; for example 1s".to_owned())
    }
}

/// Events per second, such as `10000/s`.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse::<f64>().ok());
    rate.filter(|rate| rate.is_finite() && *rate > 0.0 && *rate <= 10e6)
        .ok_or_else(|| "not a rate up to 10000000/s; for example 10000/s".to_owned())
}

/// A whole number of events per second, such as `1000/s`.
pub fn whole_rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse::<NonZeroU32>().ok());
    rate.filter(|rate| rate.get() <= 10_000_000)
        .ok_or_else(|| "not a whole rate from 1/s to 10000000/s; for example 1000/s".to_owned())
}

/// The same, or `max` for as fast as it goes, which is infinity.
pub fn rate_or_max(text: &str) -> Result<f64, String> {
    if text == "max" { Ok(f64::INFINITY) } else { rate(text).map_err(|message| format!("{message}, or max")) }
}

/// A MAC address, such as `02:00:00:00:00:02`.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2 && !byte.starts_with('+')))
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "not a MAC address; for example 02:00:00:00:00:02".to_owned())
}

/// The time between ticks that gives `rate` requests a second with `batch` requests a tick.
pub fn interval_of(rate: f64, batch: usize) -> Result<Duration, String> {
    if rate.is_infinite() {
        return Err("--rate max is for --driver generate; give for example --rate 10000/s".to_owned());
    }
    let interval = Duration::from_secs_f64((batch as f64 / rate).min(1e9));
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!(
            "--rate {rate}/s with --batch {batch} is a tick every {interval:?}, and a tick is from 10us to 24h: \
             change --batch"
        ))
    }
}

/// Ends with exit status 2: values that are right each for itself and wrong together.
pub fn usage_error(message: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{message}\n")).exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_and_nothing_else() {
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        for bad in ["", "5", "s", "-1s", "1x", "1e3s"] {
            assert!(duration(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }

    #[test]
    fn an_interval_is_from_ten_microseconds_to_a_day() {
        assert!(interval("10us").is_ok() && interval("24h").is_ok());
        assert!(interval("9us").is_err() && interval("25h").is_err() && interval("0s").is_err());
    }

    #[test]
    fn nothing_is_waited_for_sent_or_filled_that_is_nothing() {
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!((requests("1"), requests("8")), (Ok(1_u64), Ok(8_usize)));
        assert_eq!(payload("24"), Ok(24));
        for bad in ["0", "-1", "", "x"] {
            assert!(requests::<u64>(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
        assert!(timeout("0s").is_err() && timeout("5").is_err());
        assert!(payload("23").is_err_and(|message| message.contains("24")));
    }

    #[test]
    fn counts_are_looked_at_every_tenth_of_a_second_to_every_hour() {
        assert!(watch_interval("100ms").is_ok() && watch_interval("1h").is_ok());
        for bad in ["99ms", "61m", "1"] {
            assert!(watch_interval(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate("10000/s"), Ok(10_000.0));
        assert_eq!(rate("0.5/s"), Ok(0.5));
        for bad in ["", "10000", "0/s", "-1/s", "x/s", "inf/s", "NaN/s", "1e9/s", "1/m"] {
            assert!(rate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn whole_rates_are_per_second() {
        assert_eq!(whole_rate("1000/s").map(NonZeroU32::get), Ok(1_000));
        for bad in ["", "1000", "0/s", "-1/s", "0.5/s", "10000001/s", "1/m"] {
            assert!(whole_rate(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }

    #[test]
    fn the_fastest_rate_has_a_name() {
        assert_eq!(rate_or_max("max"), Ok(f64::INFINITY));
        assert_eq!(rate_or_max("5/s"), Ok(5.0));
        assert!(rate_or_max("fast").is_err_and(|message| message.contains("max")));
    }

    #[test]
    fn a_mac_address_is_six_bytes_in_hexadecimal() {
        assert_eq!(mac("02:00:00:00:fF:09"), Ok([2, 0, 0, 0, 0xff, 9]));
        for bad in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "0x:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert!(mac(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }

    #[test]
    fn a_rate_is_divided_into_ticks_by_the_batch() {
        assert_eq!(interval_of(10_000.0, 8), Ok(Duration::from_micros(800)));
        assert_eq!(interval_of(100_000.0, 1), Ok(Duration::from_micros(10)));
        assert!(interval_of(1_000_000.0, 1).is_err_and(|message| message.contains("--batch")));
        assert!(interval_of(f64::INFINITY, 1).is_err_and(|message| message.contains("generate")));
    }
}
