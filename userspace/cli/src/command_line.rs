//! The command line is parsed twice: first for `--driver`, then with that driver's options among the flags.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::builder::{PossibleValue, PossibleValuesParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use netdext::registry::{RegisteredType, Registry};

use crate::Cli;

/// The commands that run a driver, and so have its options.
const WITH_DRIVER: [&str; 2] = ["run", "install"];

/// What the words of a command line say, that of the program among them.
///
/// # Errors
///
/// A usage error, or the help that was asked for.
pub fn parse(types: &Registry, words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let driver = match named_driver(&words) {
        Some(name) => Some(
            types.types().iter().find(|known| name == known.name()).ok_or_else(|| unknown(types, name))?,
        ),
        None => types.types().first(),
    };
    if let Some(driver) = driver {
        refuse_clashes(driver)?;
    }
    let matches =
        command(types, driver).try_get_matches_from(words).map_err(|error| with_owner(types, error))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Some(args), Some(driver), Some((_, flags))) = (cli.command.driver(), driver, matches.subcommand())
    {
        args.options = driver.options(flags)?;
    }
    Ok(cli)
}

/// The command line with the options of this driver.
pub fn command(types: &Registry, driver: Option<&RegisteredType>) -> Command {
    let names = types.types().iter().map(|known| PossibleValue::new(known.name()).help(known.about()));
    let names = PossibleValuesParser::new(names.collect::<Vec<_>>());
    let first = types.types().first().map(RegisteredType::name);
    WITH_DRIVER.iter().fold(Cli::command(), |command, with_driver| {
        command.mut_subcommand(with_driver, |command| {
            let command = command.mut_arg("driver", |arg| {
                arg.value_parser(names.clone()).required(first.is_none()).default_value(first)
            });
            match driver {
                Some(driver) => with_options(command, driver),
                None => command,
            }
        })
    })
}

/// The command line with the options of every driver, for what describes it: it can't be parsed by.
pub fn described(types: &Registry, program: &str) -> Command {
    let command = command(types, None).name(program.to_owned()).bin_name(program.to_owned());
    WITH_DRIVER.iter().fold(command, |command, with_driver| {
        command.mut_subcommand(with_driver, |command| command.args(options_of_all(types)))
    })
}

/// The options of every driver, each once and under the names of the drivers that have it.
fn options_of_all(types: &Registry) -> Vec<Arg> {
    let mut options = Vec::<(Arg, Vec<&str>)>::new();
    for driver in types.types() {
        let own = driver.augment_args(Command::new(driver.name()));
        for option in own.get_arguments().filter(|option| option.get_long().is_some()) {
            match options.iter_mut().find(|(known, _)| known.get_long() == option.get_long()) {
                Some((_, owners)) => owners.push(driver.name()),
                None => options.push((described_option(option), vec![driver.name()])),
            }
        }
    }
    let heading = |owners: &[&str]| format!("Options of the driver {}", owners.join(", "));
    options.into_iter().map(|(option, owners)| option.help_heading(heading(&owners))).collect()
}

/// The option without what it has to do with others, which may be those of another driver.
fn described_option(option: &Arg) -> Arg {
    let long = option.get_long().unwrap_or_default().to_owned();
    let mut described = Arg::new(format!("--{long}")).long(long).action(option.get_action().clone());
    if let Some(help) = option.get_help() {
        described = described.help(help.clone());
    }
    if option.get_action().takes_values() {
        if let Some(names) = option.get_value_names() {
            described = described.value_names(names.iter().cloned());
        }
        let values = option.get_possible_values();
        if !values.is_empty() {
            described = described.value_parser(PossibleValuesParser::new(values));
        }
    }
    described
}

fn with_options(command: Command, driver: &RegisteredType) -> Command {
    // What describes the options takes the place of what describes the command.
    let (about, long_about) = (command.get_about().cloned(), command.get_long_about().cloned());
    let command = command.next_help_heading(format!("Options of the driver {}", driver.name()));
    driver
        .augment_args(command)
        .next_help_heading(None::<&'static str>)
        .about(Resettable::from(about))
        .long_about(Resettable::from(long_about))
}

/// The name behind `--driver`, wherever that stands behind a command that has it.
fn named_driver(words: &[OsString]) -> Option<&str> {
    let mut words =
        words.iter().take_while(|word| *word != "--").map(|word| word.to_str().unwrap_or_default()).skip(1);
    if !WITH_DRIVER.contains(&words.find(|word| !word.starts_with('-'))?) {
        return None;
    }
    loop {
        match words.next()? {
            "--driver" => return words.next(),
            word => {
                if let Some(name) = word.strip_prefix("--driver=") {
                    return Some(name);
                }
            }
        }
    }
}

fn unknown(types: &Registry, name: &str) -> clap::Error {
    let mut message = format!("there is no --driver {name}; there are:\n");
    let width = types.types().iter().map(|known| known.name().len()).max().unwrap_or_default();
    for known in types.types() {
        let _ = writeln!(message, "  {:width$}  {}", known.name(), known.about());
    }
    clap::Error::raw(ErrorKind::InvalidValue, message)
}

/// An option that a command has itself can't be given: that is said whatever the user gives, so that the driver's author
/// sees it.
fn refuse_clashes(driver: &RegisteredType) -> Result<(), clap::Error> {
    let options = driver.augment_args(Command::new(driver.name()));
    let clash = |flag: &Arg, option: &Arg| {
        flag.get_id() == option.get_id()
            || flag.get_long().is_some_and(|long| option.get_long() == Some(long))
            || flag.get_short().is_some_and(|short| option.get_short() == Some(short))
    };
    let help = Arg::new("help").long("help").short('h');
    for command in
        Cli::command().get_subcommands().filter(|command| WITH_DRIVER.contains(&command.get_name()))
    {
        let is_taken = |option: &&Arg| command.get_arguments().chain([&help]).any(|flag| clash(flag, option));
        if let Some(option) = options.get_arguments().find(is_taken) {
            let message = format!(
                "the driver {} has an option `{}`, and so has `netdext {}`: give it another name\n",
                driver.name(),
                option.get_id(),
                command.get_name()
            );
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

/// The error, and which drivers have the flag that this one does not have.
fn with_owner(types: &Registry, mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let Some(long) = flag.strip_prefix("--").filter(|_| error.kind() == ErrorKind::UnknownArgument) else {
        return error;
    };
    let has = |known: &&RegisteredType| {
        let options = known.augment_args(Command::new(known.name()));
        options.get_arguments().any(|option| option.get_long() == Some(long))
    };
    let owners: Vec<_> = types.types().iter().filter(has).map(RegisteredType::name).collect();
    if !owners.is_empty() {
        let hint = format!("{flag} is an option of --driver {}", owners.join(", "));
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

#[cfg(test)]
mod tests {
    use netdext::driver::DriverFactory;
    use netdext::registry::{DriverType, NoOptions, OptionsError};
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;
    use crate::builtin;

    /// A driver of another crate.
    struct Own;

    /// Words that are not for the help of a command
    #[derive(clap::Args, Serialize, Deserialize)]
    struct Args {
        /// The port to answer on
        #[arg(long, default_value_t = 7)]
        port: u16,
    }

    impl DriverType for Own {
        const NAME: &'static str = "own";
        const ABOUT: &'static str = "Answers on a port";
        type Options = Args;

        fn factory(_options: Args) -> Result<DriverFactory, OptionsError> {
            Err(OptionsError::new("it is not run"))
        }
    }

    /// A driver with an option that `netdext run` has too.
    struct Clashing;

    #[derive(clap::Args, Serialize, Deserialize)]
    struct Clash {
        #[arg(long = "count")]
        json: Option<u16>,
    }

    impl DriverType for Clashing {
        const NAME: &'static str = "clashing";
        const ABOUT: &'static str = "Can't be run";
        type Options = Clash;

        fn factory(_options: Clash) -> Result<DriverFactory, OptionsError> {
            Err(OptionsError::new("it is not run"))
        }
    }

    /// Without options, under the name of a built-in driver.
    struct Sink;

    impl DriverType for Sink {
        const NAME: &'static str = "sink";
        const ABOUT: &'static str = "Another sink";
        type Options = NoOptions;

        fn factory(_options: NoOptions) -> Result<DriverFactory, OptionsError> {
            Err(OptionsError::new("it is not run"))
        }
    }

    fn registry() -> Registry {
        builtin().with::<Own>().with::<Sink>()
    }

    /// The driver that a command line names, and its options.
    fn parsed(types: &Registry, line: &str) -> Result<(String, Value), String> {
        let words = ["netdext"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        let mut cli = parse(types, words).map_err(|error| error.to_string())?;
        let args = cli.command.driver().expect("a command with a driver");
        Ok((args.driver.clone(), args.options.clone()))
    }

    #[track_caller]
    fn refused(line: &str, parts: &[&str]) {
        let error = parsed(&registry(), line).expect_err(line);
        assert!(error.starts_with("error: "), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} in {line}: {error}");
        }
    }

    #[test]
    fn without_a_driver_it_is_the_first_of_the_registry_with_its_defaults() {
        let (driver, options) = parsed(&builtin(), "run --iface veth0").unwrap();
        assert_eq!(driver, "sample");
        assert_eq!(options, serde_json::to_value(netdext_drivers::sample::Options::default()).unwrap());
        let only = Registry::new().with::<Own>();
        let own = ("own".to_owned(), json!({ "port": 7 }));
        assert_eq!(parsed(&only, "install --iface veth0").unwrap(), own);
    }

    #[test]
    fn a_driver_is_named_before_or_behind_its_options() {
        for line in [
            "run --driver own --port 9 --iface veth0",
            "run --port 9 --iface veth0 --driver=own",
            "install --iface veth0 --port=9 --driver own --yes",
        ] {
            assert_eq!(
                parsed(&registry(), line).unwrap(),
                ("own".to_owned(), json!({ "port": 9 })),
                "{line}"
            );
        }
        let (_, options) = parsed(&registry(), "run --iface veth0 --driver generate --count 5").unwrap();
        assert_eq!(options["count"], 5);
    }

    #[test]
    fn an_unknown_driver_is_refused_with_a_line_for_each_that_there_is() {
        for line in ["run --iface veth0 --driver nope", "install --driver=nope"] {
            refused(
                line,
                &["no --driver nope", "  sample    Answers ARP", "  sink      Another sink", "  own       "],
            );
        }
        refused("run --iface veth0 --driver", &["a value is required", "--driver"]);
        refused("run --iface veth0 --driver own --driver sink", &["cannot be used multiple times"]);
    }

    #[test]
    fn a_command_without_a_driver_has_no_look_at_its_name() {
        let parse = |line: &str| {
            let words = ["netdext"].into_iter().chain(line.split_whitespace()).map(OsString::from);
            parse(&registry(), words).map(drop).map_err(|error| error.to_string())
        };
        parse("bench --driver nope").unwrap();
        let error = parse("stats --driver nope").unwrap_err();
        assert!(error.contains("unexpected argument '--driver'"), "{error}");
    }

    #[test]
    fn a_flag_of_another_driver_is_refused_with_the_drivers_that_have_it() {
        refused("run --iface veth0 --count 5", &["--count is an option of --driver generate"]);
        refused("run --iface veth0 --port=9", &["--port is an option of --driver own"]);
        refused(
            "install --iface veth0 --driver own --target 198.18.0.2",
            &["--target is an option of --driver sample, generate"],
        );
        refused("run --iface veth0 --nonsense", &["unexpected argument '--nonsense'"]);
    }

    #[test]
    fn the_help_has_the_options_of_the_driver_alone_under_their_own_heading() {
        let help = parsed(&registry(), "run --driver own --help").unwrap_err();
        assert!(help.starts_with("Run a driver on an interface"), "{help}");
        let (ours, theirs) = help.split_once("Options of the driver own:").expect("a heading");
        assert!(theirs.contains("--port <PORT>") && !ours.contains("--port"), "{help}");
        assert!(ours.contains("--engine") && !help.contains("--batch"), "{help}");
        assert!(ours.contains("- generate:") && ours.contains("[default: sample]"), "{help}");
        assert!(parsed(&registry(), "install --help").unwrap_err().contains("Options of the driver sample:"));
    }

    #[test]
    fn an_option_that_the_command_has_too_is_the_authors_error_and_no_panic() {
        let types = Registry::new().with::<Clashing>();
        let error = parsed(&types, "run --iface veth0").unwrap_err();
        assert!(error.contains("the driver clashing has an option `json`"), "{error}");
    }

    #[test]
    fn a_registry_without_drivers_runs_none() {
        let error = parsed(&Registry::new(), "run --iface veth0").unwrap_err();
        assert!(error.contains("--driver"), "{error}");
    }

    #[test]
    fn what_describes_the_command_line_has_the_options_of_every_driver_and_the_programs_name() {
        let mut command = described(&registry(), "udp-echo");
        command.build();
        assert_eq!(command.get_name(), "udp-echo");
        let run = command.find_subcommand("run").expect("a command");
        let heading = |long: &str| {
            let options = run.get_arguments().filter(|option| option.get_long() == Some(long));
            options.map(|option| option.get_help_heading().unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(heading("port"), ["Options of the driver own"]);
        assert_eq!(heading("target"), ["Options of the driver sample, generate"]);
        assert_eq!(heading("ageing"), ["Options of the driver forward"]);
    }

    #[test]
    fn the_whole_command_line_is_well_formed_with_each_driver() {
        let types = registry();
        for driver in types.types() {
            command(&types, Some(driver)).debug_assert();
        }
    }
}
