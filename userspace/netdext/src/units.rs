//! Values with units on a command line, as value parsers of clap: `#[arg(value_parser = units::duration)]`. Each error
//! shows an example. And such values in JSON.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::proto::MacAddr;

/// The shortest interval of a timer.
pub const MIN_INTERVAL: Duration = Duration::from_micros(10);
/// The longest interval of a timer.
pub const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// A text that is no value of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(&'static str);

/// A duration such as `5s`, `100us` or `1m 30s`.
///
/// # Errors
///
/// It is none.
pub fn duration(text: &str) -> Result<Duration, BadValue> {
    humantime::parse_duration(text).map_err(|_| BadValue("not a duration; for example 5s, 250ms or 100us"))
}

/// An interval of a timer: a duration from [`MIN_INTERVAL`] to [`MAX_INTERVAL`].
///
/// # Errors
///
/// It is none.
pub fn interval(text: &str) -> Result<Duration, BadValue> {
    let interval = duration(text)?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(BadValue("an interval is from 10us to 24h; for example 5s"))
    }
}

/// How many: 1 or more.
///
/// # Errors
///
/// It is no such number.
pub fn count<N: FromStr + PartialEq + From<u8>>(text: &str) -> Result<N, BadValue> {
    let number = text.parse().ok().filter(|number| *number != N::from(0));
    number.ok_or(BadValue("not a number from 1 on; for example 8"))
}

/// Events per second, such as `10000/s`.
///
/// # Errors
///
/// It is no rate above 0 and up to 10,000,000/s.
pub fn rate(text: &str) -> Result<f64, BadValue> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse::<f64>().ok());
    rate.filter(|rate| rate.is_finite() && *rate > 0.0 && *rate <= 10e6)
        .ok_or(BadValue("not a rate up to 10000000/s; for example 10000/s"))
}

/// A whole number of events per second, such as `1000/s`.
///
/// # Errors
///
/// It is no whole rate from 1/s to 10,000,000/s.
pub fn whole_rate(text: &str) -> Result<NonZeroU32, BadValue> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse::<NonZeroU32>().ok());
    rate.filter(|rate| rate.get() <= 10_000_000)
        .ok_or(BadValue("not a whole rate from 1/s to 10000000/s; for example 1000/s"))
}

/// A MAC address, written `02:00:00:00:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub MacAddr);

impl FromStr for Mac {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| {
                u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2 && !byte.starts_with('+'))
            })
            .collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(BadValue("not a MAC address; for example 02:00:00:00:00:02"))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

/// A duration as a number of nanoseconds: `#[serde(rename = "first_ns", with = "units::nanos")]`.
pub mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it. Durations of a command line end far below the 584 years that fit.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// It is no number from 0 on.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

/// A value as the text that the command line has for it: `#[serde(with = "units::text")]`.
pub mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes it.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// It is no text, or not that of such a value.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The same for a value that may be missing: `#[serde(default, with = "units::optional_text")]`.
pub mod optional_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    /// Writes it; null where there is none.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(serializer)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// It is neither null nor the text of such a value.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused<T: fmt::Debug>(parse: impl Fn(&str) -> Result<T, BadValue>, bad: &[&str]) {
        for text in bad {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("for example"), "{text:?}: {error}");
        }
    }

    #[test]
    fn durations_take_units_and_nothing_else() {
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        refused(duration, &["", "5", "s", "-1s", "1x", "1e3s"]);
    }

    #[test]
    fn an_interval_is_from_ten_microseconds_to_a_day() {
        assert!(interval("10us").is_ok() && interval("24h").is_ok());
        refused(interval, &["9us", "25h", "0s"]);
    }

    #[test]
    fn a_count_is_one_or_more() {
        assert_eq!((count("1"), count("8")), (Ok(1_u64), Ok(8_usize)));
        refused(count::<u64>, &["0", "-1", "", "x"]);
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate("10000/s"), Ok(10_000.0));
        assert_eq!(rate("0.5/s"), Ok(0.5));
        refused(rate, &["", "10000", "0/s", "-1/s", "x/s", "inf/s", "NaN/s", "1e9/s", "1/m", "max"]);
    }

    #[test]
    fn whole_rates_are_per_second() {
        assert_eq!(whole_rate("1000/s").map(NonZeroU32::get), Ok(1_000));
        refused(whole_rate, &["", "1000", "0/s", "-1/s", "0.5/s", "10000001/s", "1/m"]);
    }

    #[test]
    fn a_mac_address_is_six_bytes_in_hexadecimal() {
        assert_eq!("02:00:00:00:fF:09".parse(), Ok(Mac([2, 0, 0, 0, 0xff, 9])));
        assert_eq!(Mac([2, 0, 0, 0, 0xff, 9]).to_string(), "02:00:00:00:ff:09");
        let bad = [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "0x:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ];
        refused(Mac::from_str, &bad);
    }

    #[test]
    fn values_in_json_are_read_as_they_were_written() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Values {
            #[serde(rename = "first_ns", with = "nanos")]
            first: Duration,
            #[serde(with = "text")]
            mac: Mac,
            #[serde(default, with = "optional_text")]
            other: Option<Mac>,
        }
        let mut values = Values { first: Duration::from_secs(1), mac: Mac([2; 6]), other: None };
        let json = serde_json::to_value(&values).unwrap();
        assert_eq!(json, json!({ "first_ns": 1_000_000_000, "mac": "02:02:02:02:02:02", "other": null }));
        assert_eq!(serde_json::from_value::<Values>(json).unwrap(), values);
        values.other = Some(Mac([4; 6]));
        assert_eq!(serde_json::from_value::<Values>(serde_json::to_value(&values).unwrap()).unwrap(), values);
        let bad = json!({ "first_ns": 1, "mac": "02" });
        assert!(serde_json::from_value::<Values>(bad).unwrap_err().to_string().contains("for example"));
    }
}
