//! The options of the forwarder.

use std::time::Duration;

use netdext::driver::DriverFactory;
use netdext::registry::{DriverType, OptionsError};
use netdext::units;
use serde::{Deserialize, Serialize};

use super::{Forward, ForwardConfig, NAME, factory};

/// The options of the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[group(skip)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Forget a station that was not heard for this long: 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = units::duration)]
    #[serde(rename = "ageing_ns", with = "units::nanos")]
    ageing: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { ageing: ForwardConfig::default().ageing }
    }
}

impl DriverType for Forward {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Forwards frames between two or more interfaces, as a learning bridge";
    type Options = Options;

    fn factory(Options { ageing }: Options) -> Result<DriverFactory, OptionsError> {
        factory(ForwardConfig { ageing, ..ForwardConfig::default() }).map_err(OptionsError::new)
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
    fn the_ageing_time_is_written_in_ns_and_has_bounds() {
        let given = options(&["--ageing", "2s"]).unwrap();
        assert_eq!(serde_json::to_value(given).unwrap(), json!({ "ageing_ns": 2_000_000_000_u64 }));
        assert!(Forward::factory(given).is_ok());
        for words in ["999ms", "25h"] {
            let error = Forward::factory(options(&["--ageing", words]).unwrap()).unwrap_err().to_string();
            assert!(error.contains("--ageing") && error.contains("for example"), "{error}");
        }
    }
}
