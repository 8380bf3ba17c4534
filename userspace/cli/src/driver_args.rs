//! The flags that say which driver to run and how: those that `netdext run` and `netdext install` have for every driver.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use clap::ValueEnum;
use netdext::driver::DriverFactory;
use netdext::error::one_line;
use netdext::registry::Registry;
use netdext_daemon::spec::{DriverSpec, InterfaceAddress};
use netdext_host::steer::{Rule, RuleFileError};
use netdext_host::supervisor::{QueueSelection, RequirementError, StartError};
use netdext_host::worker::WaitStrategy;
use netdext_host::xdp::program::XdpMode;
use serde_json::Value;

use crate::kernel::RiskArgs;
use crate::rule_args::{self, RuleArg};
use crate::units;

/// The driver's addresses unless others are given: of the ranges for benchmarks, RFC 2544 and RFC 5180.
pub fn default_addresses() -> [InterfaceAddress; 2] {
    [
        InterfaceAddress { address: Ipv4Addr::new(198, 18, 0, 1).into(), prefix_len: 24 },
        InterfaceAddress { address: Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1).into(), prefix_len: 64 },
    ]
}

// Without groups: a driver's options may be a struct of any name.
#[derive(clap::Args)]
#[group(skip)]
pub struct DriverArgs {
    /// The interface that the driver takes; repeated for a driver that takes several, such as forward
    #[arg(long = "iface", value_name = "IFACE", required = true)]
    pub ifaces: Vec<String>,
    /// The driver; `--driver NAME --help` shows its options
    #[arg(long, value_name = "NAME")]
    pub driver: String,
    /// Its options, which are flags of their own.
    #[arg(skip)]
    pub options: Value,
    /// An address of the driver with its prefix length; can be repeated [default: 198.18.0.1/24 and 2001:2::1/64]
    #[arg(long, value_name = "ADDR/LEN")]
    pub addr: Vec<InterfaceAddress>,
    /// Where the XDP program runs: in the device's driver, or in the kernel's stack
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// How a worker waits when there is nothing to do
    #[arg(long, default_value = "adaptive", value_parser = ["spin", "adaptive", "poll"])]
    wait: String,
    /// How many hardware queues to serve, each by a worker of its own. Frames that arrive on the others stay
    /// with the kernel [default: all]
    #[arg(long, value_name = "N|all", value_parser = queues)]
    pub queues: Option<QueueSelection>,
    /// A steering rule: driver, answer, kernel or drop, and which frames, as in drop:proto=udp,dport=53; or all
    /// for every frame to the driver; or @FILE with a rule a line. Can be repeated; see docs/steering.md
    #[arg(long, value_name = "RULE|@FILE")]
    steer: Vec<RuleArg>,
    /// Answer ARP, neighbour solicitations and echo requests for the addresses inside the XDP program. What it
    /// can't answer still goes to the driver
    #[arg(long)]
    answer: bool,
    /// How many answers of the XDP program each source gets, and as many at once; what it asks beyond that is
    /// dropped. For example 1000/s [default: no limit]
    #[arg(long, value_name = "N/s", value_parser = netdext::units::whole_rate, requires = "answer")]
    answer_limit: Option<NonZeroU32>,
    /// If the first interface is missing, make a veth pair of that name, and remove it at the end
    #[arg(long)]
    pub lab: bool,
    /// Take another XDP program off the interface
    #[arg(long)]
    pub replace: bool,
    /// Steer even what cuts the host off, on the interface of the default route
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub risk: RiskArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Native, and skb where the device can't
    Auto,
    /// In the device's driver
    Native,
    /// In the kernel's stack
    Skb,
}

fn queues(text: &str) -> Result<QueueSelection, String> {
    match text.parse() {
        _ if text == "all" => Ok(QueueSelection::All),
        Ok(0) | Err(_) => Err("not a number of queues; for example 1, 4 or all".to_owned()),
        Ok(count) => Ok(QueueSelection::First(count)),
    }
}

impl DriverArgs {
    /// The first interface, which is all that most drivers have.
    pub fn iface(&self) -> &str {
        // clap has seen to it that there is one.
        self.ifaces.first().map_or("", String::as_str)
    }

    /// The steering rules, the oldest first.
    ///
    /// # Errors
    ///
    /// A file of rules can't be read, or has a line that is none.
    pub fn rules(&self) -> Result<Vec<Rule>, RuleFileError> {
        rule_args::rules(&self.steer)
    }

    /// The flags that are for a driver on the rings alone, and whether they were given.
    pub fn for_rings(&self) -> [(&'static str, bool); 5] {
        [
            ("a second --iface", self.ifaces.len() > 1),
            ("--steer", !self.steer.is_empty()),
            ("--answer", self.answer),
            // A pair that is made gets so many.
            ("--queues", self.queues.is_some() && !self.lab),
            ("--mode skb", matches!(self.mode, Mode::Skb)),
        ]
    }

    /// The addresses, of a driver that means something by them or not.
    pub fn addresses(&self, meant: bool) -> Vec<InterfaceAddress> {
        if self.addr.is_empty() && meant { default_addresses().to_vec() } else { self.addr.clone() }
    }

    /// What makes the driver. `Err` is a usage error: the driver refuses its options, or the interfaces are too few, too
    /// many, or not different.
    fn factory(&self, types: &Registry) -> Result<DriverFactory, String> {
        let factory = types.factory(&self.driver, &self.options).map_err(|error| one_line(&error))?;
        let (ports, given) = (&factory.requirements().ports, self.ifaces.len());
        if !ports.contains(&given) {
            let (driver, least, most) = (factory.name(), *ports.start(), *ports.end());
            return Err(RequirementError::Ports { driver, least, most, given }.to_string());
        }
        let twice =
            self.ifaces.iter().enumerate().find(|(index, iface)| self.ifaces[..*index].contains(iface));
        match twice {
            Some((_, iface)) => Err(StartError::IfaceTwice { iface: iface.clone() }.to_string()),
            None => Ok(factory),
        }
    }

    /// What the flags ask for, with these steering rules. Ends the process with exit status 2 where the driver refuses
    /// its options or the interfaces.
    pub fn spec(&self, types: &Registry, rules: &[Rule]) -> DriverSpec {
        let factory = self.factory(types).unwrap_or_else(|message| units::usage_error(&message));
        DriverSpec {
            iface: self.iface().to_owned(),
            other_ifaces: self.ifaces[1..].to_vec(),
            driver: self.driver.clone(),
            options: self.options.clone(),
            addresses: self.addresses(factory.requirements().addresses),
            mode: match self.mode {
                Mode::Auto => XdpMode::Auto,
                Mode::Native => XdpMode::Native,
                Mode::Skb => XdpMode::Skb,
            },
            // clap has checked the word.
            wait: self.wait.parse().unwrap_or(WaitStrategy::Adaptive),
            queues: match self.queues {
                Some(QueueSelection::First(count)) => Some(count),
                Some(QueueSelection::All) | None => None,
            },
            steer: rules.iter().map(Rule::to_string).collect(),
            answer: self.answer,
            answer_limit: self.answer_limit,
            yes: self.yes,
            replace: self.replace,
            lab: self.lab,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::{builtin, command_line};

    #[test]
    fn interfaces_that_the_driver_can_not_take_are_a_usage_error() {
        let refusal = |line: &str| {
            let words = ["netdext"].into_iter().chain(line.split_whitespace()).map(OsString::from);
            let mut cli = command_line::parse(&builtin(), words).unwrap_or_else(|error| panic!("{error}"));
            cli.command.driver().expect("a command with a driver").factory(&builtin()).err()
        };
        for (line, part) in [
            ("run --iface a --iface b", "the driver sample takes one interface, not 2: give --iface"),
            ("install --driver forward --iface a", "the driver forward takes 2 to 16 interfaces, not 1"),
            ("run --driver forward --iface a --iface b --iface a", "a is given twice"),
        ] {
            let refusal = refusal(line).expect(line);
            assert!(refusal.contains(part), "{line}: {refusal}");
        }
        assert_eq!(refusal("run --driver forward --iface a --iface b"), None);
        assert_eq!(refusal("run --iface a"), None);
    }

    #[test]
    fn queues_are_a_number_or_all() {
        assert_eq!(queues("all"), Ok(QueueSelection::All));
        assert_eq!(queues("4"), Ok(QueueSelection::First(4)));
        for bad in ["0", "", "-1", "four", "4294967296"] {
            assert!(queues(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }
}
