//! Driver types with options of their own, and the table of those that a program knows by name.
//!
//! ```
//! use netdext::driver::{Driver, DriverFactory, Requirements};
//! use netdext::registry::{DriverType, OptionsError, Registry};
//! # use netdext::driver::{Cx, DriverStats, PortId};
//! # use netdext::packet::PacketBatch;
//! # struct Echo;
//! # impl Driver for Echo {
//! #     fn name(&self) -> &'static str { "udp-echo" }
//! #     fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) { batch.clear() }
//! #     fn stats(&self) -> DriverStats { DriverStats::default() }
//! # }
//! # fn udp_echo(_port: u16) -> Box<dyn Driver> { Box::new(Echo) }
//!
//! struct UdpEcho;
//!
//! #[derive(clap::Args, serde::Serialize, serde::Deserialize)]
//! struct Options {
//!     /// The UDP port to echo
//!     #[arg(long, default_value_t = 7)]
//!     port: u16,
//! }
//!
//! impl DriverType for UdpEcho {
//!     const NAME: &'static str = "udp-echo";
//!     const ABOUT: &'static str = "Sends datagrams to a UDP port back";
//!     type Options = Options;
//!
//!     fn factory(Options { port }: Options) -> Result<DriverFactory, OptionsError> {
//!         let steering = [format!("driver:proto=udp,dport={port}")];
//!         Ok(DriverFactory::new(Self::NAME, move |_queue| udp_echo(port))
//!             .requiring(Requirements::default().steering(steering)))
//!     }
//! }
//!
//! let registry = Registry::new().with::<UdpEcho>();
//! let factory = registry.factory("udp-echo", &serde_json::json!({ "port": 9 })).unwrap();
//! assert_eq!(factory.requirements().steering, ["driver:proto=udp,dport=9"]);
//! ```

use std::error::Error;
use std::fmt;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::driver::DriverFactory;

/// A driver that a program can run by its name.
pub trait DriverType: 'static {
    /// The name that `--driver` takes: by custom lower-case letters, digits and hyphens.
    const NAME: &'static str;

    /// What it does, in one line.
    const ABOUT: &'static str;

    /// Its options: flags of `netdext run` and `netdext install` beside those that they have themselves, and a JSON
    /// object in the state of the daemon. What is written has to be read as the same; a field that is left out should
    /// have its default (`#[serde(default)]`). JSON has no infinity.
    type Options: Args + Serialize + DeserializeOwned;

    /// Makes the instances of one run with these options. Nothing is touched yet.
    ///
    /// # Errors
    ///
    /// The options do not go together. The text is shown as it is, so it names the flag and says what to do.
    fn factory(options: Self::Options) -> Result<DriverFactory, OptionsError>;
}

/// The options of a driver that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[group(skip)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

/// Options that do not go together.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OptionsError(Box<dyn Error + Send + Sync>);

impl OptionsError {
    /// From a text, or from an error.
    pub fn new(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(why.into())
    }
}

/// Why there is no driver of that name with those options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// There is none of that name.
    #[error("there is no driver {name}; there are: {}", .known.join(", "))]
    UnknownDriver {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<&'static str>,
    },
    /// The JSON is not what the driver's options are.
    #[error("the options of the driver {driver}")]
    NotOptions {
        /// The driver.
        driver: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The driver refuses its options.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

/// The driver types that a program knows, in the order in which they were added. The first is the one that is run where
/// none is named.
#[derive(Clone, Default)]
pub struct Registry {
    types: Vec<RegisteredType>,
}

/// A driver type of a [`Registry`].
#[derive(Clone, Copy)]
pub struct RegisteredType {
    name: &'static str,
    about: &'static str,
    augment: fn(Command) -> Command,
    options: fn(&ArgMatches) -> Result<Value, clap::Error>,
    factory: fn(&Value) -> Result<DriverFactory, RegistryError>,
}

impl Registry {
    /// A registry without a type.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another type. One of the same name is replaced, in its place.
    #[must_use]
    pub fn with<T: DriverType>(mut self) -> Self {
        let new = RegisteredType::of::<T>();
        match self.types.iter_mut().find(|known| known.name == new.name) {
            Some(known) => *known = new,
            None => self.types.push(new),
        }
        self
    }

    /// The types.
    pub fn types(&self) -> &[RegisteredType] {
        &self.types
    }

    /// The type of that name.
    ///
    /// # Errors
    ///
    /// [`RegistryError::UnknownDriver`].
    pub fn find(&self, name: &str) -> Result<&RegisteredType, RegistryError> {
        self.types.iter().find(|known| known.name == name).ok_or_else(|| RegistryError::UnknownDriver {
            name: name.to_owned(),
            known: self.types.iter().map(|known| known.name).collect(),
        })
    }

    /// Makes the instances of one run of the driver of that name; see [`RegisteredType::factory`].
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn factory(&self, name: &str, options: &Value) -> Result<DriverFactory, RegistryError> {
        self.find(name)?.factory(options)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.types).finish()
    }
}

impl RegisteredType {
    fn of<T: DriverType>() -> Self {
        Self {
            name: T::NAME,
            about: T::ABOUT,
            augment: T::Options::augment_args,
            options: options::<T>,
            factory: factory::<T>,
        }
    }

    /// The name that `--driver` takes.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it does, in one line.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// The command with the driver's options as flags.
    pub fn augment_args(&self, command: Command) -> Command {
        (self.augment)(command)
    }

    /// The options that such a command was given, as JSON.
    ///
    /// # Errors
    ///
    /// They are missing, or can't be written as JSON.
    pub fn options(&self, matches: &ArgMatches) -> Result<Value, clap::Error> {
        (self.options)(matches)
    }

    /// Makes the instances of one run with these options; null stands for `{}`.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotOptions`], [`RegistryError::Options`].
    pub fn factory(&self, options: &Value) -> Result<DriverFactory, RegistryError> {
        (self.factory)(options)
    }
}

impl fmt::Debug for RegisteredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn options<T: DriverType>(matches: &ArgMatches) -> Result<Value, clap::Error> {
    serde_json::to_value(T::Options::from_arg_matches(matches)?).map_err(|error| {
        let message = format!("the options of the driver {} can't be written as JSON: {error}\n", T::NAME);
        clap::Error::raw(ErrorKind::Format, message)
    })
}

fn factory<T: DriverType>(options: &Value) -> Result<DriverFactory, RegistryError> {
    let none = Value::Object(Map::new());
    let options = T::Options::deserialize(if options.is_null() { &none } else { options });
    let options = options.map_err(|source| RegistryError::NotOptions { driver: T::NAME, source })?;
    Ok(T::factory(options)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::one_line;

    struct Plain;
    struct Counting;
    struct Replacement;

    fn idle(name: &'static str) -> DriverFactory {
        DriverFactory::new(name, |_queue| unreachable!("nothing is started"))
    }

    impl DriverType for Plain {
        const NAME: &'static str = "plain";
        const ABOUT: &'static str = "Does nothing";
        type Options = NoOptions;

        fn factory(_options: NoOptions) -> Result<DriverFactory, OptionsError> {
            Ok(idle(Self::NAME))
        }
    }

    #[derive(Args, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Count {
        #[arg(long, default_value_t = 3)]
        count: u32,
    }

    impl Default for Count {
        fn default() -> Self {
            Self { count: 3 }
        }
    }

    impl DriverType for Counting {
        const NAME: &'static str = "counting";
        const ABOUT: &'static str = "Counts to a number";
        type Options = Count;

        fn factory(options: Count) -> Result<DriverFactory, OptionsError> {
            match options.count {
                0 => Err(OptionsError::new("--count 0 counts nothing: give for example --count 3")),
                count => {
                    Ok(idle(Self::NAME).requiring(crate::driver::Requirements::default().max_queues(count)))
                }
            }
        }
    }

    impl DriverType for Replacement {
        const NAME: &'static str = "plain";
        const ABOUT: &'static str = "Does nothing, and better";
        type Options = NoOptions;

        fn factory(_options: NoOptions) -> Result<DriverFactory, OptionsError> {
            Ok(idle(Self::NAME))
        }
    }

    fn registry() -> Registry {
        Registry::new().with::<Plain>().with::<Counting>()
    }

    fn error(name: &str, options: &Value) -> String {
        one_line(&registry().factory(name, options).unwrap_err())
    }

    #[test]
    fn the_flags_of_a_driver_become_its_options_and_those_its_factory() {
        let counting = *registry().find("counting").unwrap();
        let command = counting.augment_args(Command::new("x"));
        let options =
            counting.options(&command.try_get_matches_from(["x", "--count", "7"]).unwrap()).unwrap();
        assert_eq!(options, json!({ "count": 7 }));
        let factory = counting.factory(&options).unwrap();
        assert_eq!((factory.name(), factory.requirements().max_queues), ("counting", Some(7)));
    }

    #[test]
    fn options_that_are_left_out_have_their_defaults() {
        for options in [Value::Null, json!({})] {
            let factory = registry().factory("counting", &options).unwrap();
            assert_eq!(factory.requirements().max_queues, Some(3), "{options}");
            registry().factory("plain", &options).unwrap();
        }
    }

    #[test]
    fn what_can_not_be_run_is_refused_with_the_reason() {
        assert_eq!(error("nothing", &json!({})), "there is no driver nothing; there are: plain, counting");
        let unknown = error("plain", &json!({ "count": 1 }));
        assert!(unknown.starts_with("the options of the driver plain: unknown field `count`"), "{unknown}");
        assert!(error("counting", &json!({ "count": "x" })).contains("invalid type"));
        assert_eq!(
            error("counting", &json!({ "count": 0 })),
            "--count 0 counts nothing: give for example --count 3"
        );
    }

    #[test]
    fn a_type_of_the_same_name_takes_the_others_place() {
        let registry = registry().with::<Replacement>();
        let types: Vec<_> = registry.types().iter().map(|known| (known.name(), known.about())).collect();
        assert_eq!(types, [("plain", "Does nothing, and better"), ("counting", "Counts to a number")]);
    }
}
