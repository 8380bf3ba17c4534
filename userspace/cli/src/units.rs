//! Values with units that only commands of netdext take, beside those of [`netdext::units`].

use std::time::Duration;

use netdext::proto::probe::Stamp;
use netdext::units::duration;

/// A duration that is not 0.
pub fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text).map_err(|error| error.to_string())?;
    if timeout.is_zero() { Err("0 waits for nothing; for example 1s".to_owned()) } else { Ok(timeout) }
}

/// Bytes of an echo request's payload, which has its send time and its number in it.
pub fn payload(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes >= Stamp::LEN);
    bytes.ok_or_else(|| format!("not a number of bytes from {} on; for example 56", Stamp::LEN))
}

/// The time from one look at the counts to the next: 100 ms to an hour.
pub fn watch_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("from 100ms to 1h; for example 1s".to_owned())
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
    fn nothing_is_waited_for_or_filled_that_is_nothing() {
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(payload("24"), Ok(24));
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
}
