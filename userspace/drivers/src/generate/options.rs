//! The options of the generator.

use std::net::IpAddr;
use std::str::FromStr;

use netdext::driver::DriverFactory;
use netdext::registry::{DriverType, OptionsError};
use netdext::units::{self, Mac};
use serde::{Deserialize, Serialize};

use super::{FrameKind, Generate, GenerateConfig, NAME, Rate, SizeMix, factory};

/// Frames a second unless `--rate` says otherwise.
const DEFAULT_RATE: Rate = Rate::PerSecond(1000.0);

/// The options of the generator.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[group(skip)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Frames per second, or `max` for as fast as it goes [default: 1000/s]
    #[arg(long, value_name = "N/s")]
    #[serde(rename = "rate_pps", skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
    /// The IP address to send to
    #[arg(long, value_name = "ADDR")]
    target: Option<IpAddr>,
    /// The MAC address to send to
    #[arg(long, value_name = "MAC")]
    #[serde(with = "units::optional_text")]
    dst_mac: Option<Mac>,
    /// Sizes of the frames in bytes, FCS included, with their weights: 64 or 64:7,594:4,1518:1
    #[arg(long, value_name = "MIX", default_value = "64")]
    #[serde(rename = "size_bytes", with = "units::text")]
    size: SizeMix,
    /// Over how many flows (UDP source ports, echo identifiers) the frames are spread
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: u32,
    /// What the frames are: `udp` datagrams to the discard port, or `echo` requests
    #[arg(long, value_name = "KIND", default_value = "udp")]
    #[serde(with = "units::text")]
    frames: FrameKind,
    /// Stop after so many frames
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rate: None,
            target: None,
            dst_mac: None,
            size: SizeMix::default(),
            flows: 1,
            frames: FrameKind::Udp,
            count: None,
        }
    }
}

impl Options {
    /// How often they want frames, if they say so.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// What to generate, at this rate.
    ///
    /// # Errors
    ///
    /// In words of the flags, what is missing or wrong.
    pub fn config(&self, rate: Rate) -> Result<GenerateConfig, OptionsError> {
        let Some(target) = self.target else {
            return Err(OptionsError::new("--driver generate needs one --target: the IP address to send to"));
        };
        let Some(Mac(destination_mac)) = self.dst_mac else {
            return Err(OptionsError::new(
                "--driver generate needs --dst-mac: the MAC address of the target, or of the router to it, for \
                 example --dst-mac 02:00:00:00:00:02",
            ));
        };
        let config = GenerateConfig {
            frames: self.frames,
            target,
            destination_mac,
            sizes: self.size.clone(),
            flows: self.flows,
            rate,
            count: self.count,
        };
        config.check().map_err(OptionsError::new)?;
        Ok(config)
    }
}

impl DriverType for Generate {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Sends frames on a schedule or as fast as it goes, and counts the replies";
    type Options = Options;

    fn factory(options: Options) -> Result<DriverFactory, OptionsError> {
        let config = options.config(options.rate.unwrap_or(DEFAULT_RATE))?;
        factory(config).map_err(OptionsError::new)
    }
}

/// A text that is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}, or max")]
pub struct NotARate(units::BadValue);

impl FromStr for Rate {
    type Err = NotARate;

    /// `10000/s`, or `max`.
    fn from_str(text: &str) -> Result<Self, NotARate> {
        if text == "max" { Ok(Self::Max) } else { units::rate(text).map(Self::PerSecond).map_err(NotARate) }
    }
}

/// A rate in JSON: a number, or the word `max`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RateJson {
    PerSecond(f64),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Max,
}

impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = match *self {
            Self::PerSecond(rate) => RateJson::PerSecond(rate),
            Self::Max => RateJson::Word(Word::Max),
        };
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match RateJson::deserialize(deserializer)? {
            RateJson::PerSecond(rate) => Self::PerSecond(rate),
            RateJson::Word(Word::Max) => Self::Max,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};
    use serde_json::json;

    use super::*;

    const MAC: &str = "--target 198.18.0.2 --dst-mac 02:00:00:00:00:02";

    fn options(words: &str) -> Result<Options, clap::Error> {
        let command = Options::augment_args(Command::new("x").no_binary_name(true));
        Options::from_arg_matches(&command.try_get_matches_from(words.split_whitespace())?)
    }

    fn config(words: &str) -> Result<GenerateConfig, String> {
        let options = options(words).map_err(|error| error.to_string())?;
        options.config(options.rate().unwrap_or(DEFAULT_RATE)).map_err(|error| error.to_string())
    }

    #[test]
    fn no_flags_and_an_empty_object_are_the_defaults() {
        assert_eq!(options("").unwrap(), Options::default());
        assert_eq!(serde_json::from_value::<Options>(json!({})).unwrap(), Options::default());
        assert_eq!(config(MAC).unwrap().rate, Rate::PerSecond(1000.0));
    }

    #[test]
    fn the_flags_make_a_configuration() {
        let config =
            config(&format!("{MAC} --rate 5/s --size 64:3,1518 --flows 7 --frames echo --count 9")).unwrap();
        assert_eq!((config.destination_mac, config.flows), ([2, 0, 0, 0, 0, 2], 7));
        assert_eq!(
            (config.rate, config.frames, config.count),
            (Rate::PerSecond(5.0), FrameKind::Echo, Some(9))
        );
        assert_eq!(config.sizes.sizes(), [64, 1518]);
    }

    #[test]
    fn the_flags_are_written_as_json_with_units() {
        for (words, rate) in [("--rate 5/s", json!(5.0)), ("--rate max", json!("max"))] {
            let options = options(&format!("{MAC} {words} --size 64:3,1518")).unwrap();
            let json = json!({
                "rate_pps": rate,
                "target": "198.18.0.2",
                "dst_mac": "02:00:00:00:00:02",
                "size_bytes": "64:3,1518",
                "flows": 1,
                "frames": "udp",
                "count": null,
            });
            assert_eq!(serde_json::to_value(&options).unwrap(), json);
            assert_eq!(serde_json::from_value::<Options>(json).unwrap(), options);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_an_example_or_a_way_out() {
        for (words, named) in [
            ("", "--target"),
            ("--target 198.18.0.2", "--dst-mac 02:"),
            (&format!("{MAC} --flows 0"), "64512"),
            (&format!("{MAC} --size 10"), "64 to 9018"),
            (&format!("{MAC} --rate fast"), "10000/s, or max"),
            (&format!("{MAC} --frames tcp"), "udp or echo"),
            ("--target 198.18.0.2 --dst-mac 02:00", "02:00:00:00:00:02"),
        ] {
            let error = config(words).unwrap_err();
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }
}
