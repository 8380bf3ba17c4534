//! The options of the sample driver.

use std::net::IpAddr;
use std::time::Duration;

use netdext::driver::DriverFactory;
use netdext::registry::{DriverType, OptionsError};
use netdext::units::{self, MAX_INTERVAL, MIN_INTERVAL};
use serde::{Deserialize, Serialize};

use super::{InjectorConfig, NAME, Sample, SampleConfig, factory};

/// The options of the sample driver.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[group(skip)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// From enabling the interface to the first echo requests
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    #[serde(rename = "first_ns", with = "units::nanos")]
    first: Duration,
    /// From one batch of echo requests to the next: 10us to 24h
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::interval)]
    #[serde(rename = "interval_ns", with = "units::nanos")]
    interval: Duration,
    /// Echo requests per second, instead of the interval between batches; for example 10000/s
    #[arg(long, value_name = "N/s", value_parser = rate, conflicts_with = "interval")]
    #[serde(rename = "rate_pps", skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    /// Echo requests in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = units::count::<usize>)]
    batch: usize,
    /// Whom to send echo requests to; can be repeated. Without it the other end of the veth pair, or else
    /// the first neighbour that is heard
    #[arg(long, value_name = "ADDR")]
    #[serde(rename = "targets")]
    target: Vec<IpAddr>,
    /// Send no echo requests
    #[arg(long, conflicts_with_all = ["first", "interval", "rate", "batch", "target"])]
    no_injector: bool,
    // `netdext inject set --size` changes it.
    #[arg(skip = InjectorConfig::default().payload_len)]
    payload_bytes: usize,
}

fn rate(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Err("max is for --driver generate; for example 10000/s".to_owned());
    }
    units::rate(text).map_err(|error| error.to_string())
}

impl Default for Options {
    fn default() -> Self {
        let InjectorConfig { first, interval, batch, targets, payload_len, reply_timeout: _ } =
            InjectorConfig::default();
        Self {
            first,
            interval,
            rate: None,
            batch,
            target: targets,
            no_injector: false,
            payload_bytes: payload_len,
        }
    }
}

impl Options {
    /// The injector that they ask for.
    ///
    /// # Errors
    ///
    /// There is no interval for that rate.
    pub fn injector(&self) -> Result<Option<InjectorConfig>, OptionsError> {
        if self.no_injector {
            return Ok(None);
        }
        let interval = match self.rate {
            Some(rate) => interval_of(rate, self.batch).map_err(OptionsError::new)?,
            None => self.interval,
        };
        Ok(Some(InjectorConfig {
            first: self.first,
            interval,
            batch: self.batch,
            targets: self.target.clone(),
            payload_len: self.payload_bytes,
            ..InjectorConfig::default()
        }))
    }
}

/// The time between batches that gives `rate` requests a second with `batch` requests each.
///
/// # Errors
///
/// In words of the flags, that no timer has such an interval.
pub fn interval_of(rate: f64, batch: usize) -> Result<Duration, String> {
    let interval = Duration::try_from_secs_f64(batch as f64 / rate).unwrap_or(Duration::MAX);
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!(
            "--rate {rate}/s with --batch {batch} is a tick every {interval:?}, and a tick is from 10us to 24h: \
             change --batch"
        ))
    }
}

impl DriverType for Sample {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Answers ARP, NDP and echo requests, and injects echo requests by timer";
    type Options = Options;

    fn factory(options: Options) -> Result<DriverFactory, OptionsError> {
        let config = SampleConfig { injector: options.injector()?, ..SampleConfig::default() };
        factory(config, fastrand::u64(..)).map_err(OptionsError::new)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};
    use serde_json::json;

    use super::*;

    fn options(words: &[&str]) -> Result<Options, clap::Error> {
        let command = Options::augment_args(Command::new("x").no_binary_name(true));
        Options::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn no_flags_and_an_empty_object_are_the_defaults() {
        assert_eq!(options(&[]).unwrap(), Options::default());
        assert_eq!(serde_json::from_value::<Options>(json!({})).unwrap(), Options::default());
    }

    #[test]
    fn the_flags_are_written_as_json_with_units() {
        let words = "--first 2s --rate 10000/s --batch 4 --target 198.18.0.2 --target 2001:2::2";
        let options = options(&words.split(' ').collect::<Vec<_>>()).unwrap();
        let json = json!({
            "first_ns": 2_000_000_000_u64,
            "interval_ns": 5_000_000_000_u64,
            "rate_pps": 10_000.0,
            "batch": 4,
            "targets": ["198.18.0.2", "2001:2::2"],
            "no_injector": false,
            "payload_bytes": 56,
        });
        assert_eq!(serde_json::to_value(&options).unwrap(), json);
        assert_eq!(serde_json::from_value::<Options>(json).unwrap(), options);
        let injector = options.injector().unwrap().unwrap();
        assert_eq!((injector.interval, injector.batch), (Duration::from_micros(400), 4));
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        for words in [
            &["--rate", "5/s", "--interval", "1s"][..],
            &["--no-injector", "--batch", "1"],
            &["--no-injector", "--target", "198.18.0.2"],
        ] {
            let error = options(words).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict, "{words:?}: {error}");
        }
        let error = options(&["--rate", "max"]).unwrap_err().to_string();
        assert!(error.contains("--driver generate"), "{error}");
    }

    #[test]
    fn a_rate_is_divided_into_ticks_by_the_batch() {
        assert_eq!(interval_of(10_000.0, 8), Ok(Duration::from_micros(800)));
        assert_eq!(interval_of(100_000.0, 1), Ok(Duration::from_micros(10)));
        for (rate, batch) in [(1_000_000.0, 1), (1e-300, 8), (0.0, 8), (-1.0, 8), (f64::INFINITY, 1)] {
            assert!(interval_of(rate, batch).is_err_and(|message| message.contains("--batch")), "{rate}");
        }
    }

    #[test]
    fn without_an_injector_and_with_one_that_can_not_work() {
        assert!(options(&["--no-injector"]).unwrap().injector().unwrap().is_none());
        let refused = Options { batch: 0, ..Options::default() };
        assert!(Sample::factory(refused).unwrap_err().to_string().contains("batch is 0"));
    }
}
