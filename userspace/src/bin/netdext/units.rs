//! Values with units on the command line. Each error shows an example.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

/// The shortest interval of a timer.
const MIN_INTERVAL: Duration = Duration::from_micros(10);
/// The longest interval of a timer.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// A duration such as `5s`, `100us` or `1m 30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "not a duration; for example 5s, 250ms or 100us".to_owned())
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

/// An address with the length of its prefix, such as `198.18.0.1/24`.
pub fn address(text: &str) -> Result<(IpAddr, u8), String> {
    let example =
        || "not an address with a prefix length; for example 198.18.0.1/24 or 2001:2::1/64".to_owned();
    let (address, length) = text.split_once('/').ok_or_else(example)?;
    let address: IpAddr = address.parse().map_err(|_| example())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse().ok().filter(|length| *length <= most).ok_or_else(example)?;
    Ok((address, length))
}

/// The time between ticks that gives `rate` requests a second with `batch` requests a tick.
pub fn interval_of(rate: f64, batch: usize) -> Result<Duration, String> {
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
    fn a_rate_is_divided_into_ticks_by_the_batch() {
        assert_eq!(interval_of(10_000.0, 8), Ok(Duration::from_micros(800)));
        assert_eq!(interval_of(100_000.0, 1), Ok(Duration::from_micros(10)));
        assert!(interval_of(1_000_000.0, 1).is_err_and(|message| message.contains("--batch")));
    }

    #[test]
    fn addresses_need_a_prefix_length_that_fits_the_family() {
        assert_eq!(address("198.18.0.1/24"), Ok(("198.18.0.1".parse().unwrap(), 24)));
        assert!(address("2001:2::1/64").is_ok());
        for bad in
            ["", "198.18.0.1", "198.18.0.1/33", "2001:2::1/129", "198.18.0/24", "x/24", "198.18.0.1/-1"]
        {
            assert!(address(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }
}
