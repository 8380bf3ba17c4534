//! The flags that say which driver to run and how: those of `netdext run` and `netdext install`.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::ValueEnum;
use netdext_daemon::spec::{DriverSpec, InjectorSpec, InterfaceAddress};
use netdext_drivers::sample::InjectorConfig;
use netdext_host::link::program::XdpMode;
use netdext_host::steer::{Rule, RuleFileError};
use netdext_host::supervisor::QueueSelection;
use netdext_host::worker::WaitStrategy;

use crate::kernel::RiskArgs;
use crate::rule_args::{self, RuleArg};
use crate::units;

/// The driver's addresses unless others are given: of the ranges for benchmarks, RFC 2544 and RFC 5180.
pub const DEFAULT_ADDRESSES: [&str; 2] = ["198.18.0.1/24", "2001:2::1/64"];

#[derive(clap::Args)]
pub struct DriverArgs {
    /// The interface that the driver takes
    #[arg(long)]
    pub iface: String,
    /// The driver
    #[arg(long, value_enum, default_value = "sample")]
    pub driver: DriverName,
    /// An address of the driver with its prefix length; can be repeated
    #[arg(long, value_name = "ADDR/LEN", default_values = DEFAULT_ADDRESSES)]
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
    #[arg(long, value_name = "N/s", value_parser = units::whole_rate, requires = "answer")]
    answer_limit: Option<NonZeroU32>,
    /// From enabling the interface to the first echo requests
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    first: Duration,
    /// From one batch of echo requests to the next: 10us to 24h
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::interval)]
    interval: Duration,
    /// Echo requests per second, instead of the interval between batches; for example 10000/s. With `--driver
    /// generate` the frames per second, or `max` for as fast as it goes
    #[arg(long, value_name = "N/s", value_parser = units::rate_or_max, conflicts_with = "interval")]
    pub rate: Option<f64>,
    /// Echo requests in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = units::requests::<usize>)]
    batch: usize,
    /// Whom to send echo requests to; can be repeated. Without it the other end of the veth pair, or else
    /// the first neighbour that is heard
    #[arg(long, value_name = "ADDR")]
    pub target: Vec<IpAddr>,
    /// Send no echo requests
    #[arg(long, conflicts_with_all = ["first", "interval", "rate", "batch", "target"])]
    no_injector: bool,
    /// If the interface is missing, make a veth pair of that name, and remove it at the end
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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverName {
    /// Answers ARP, NDP and echo requests, and injects echo requests by timer
    Sample,
    /// Counts every frame that is steered to it, and drops it
    Sink,
    /// Sends every frame that is steered to it back, with its MAC addresses swapped
    Reflect,
    /// Sends frames on a schedule or as fast as it goes, and counts the replies
    Generate,
}

impl DriverName {
    fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Sink => "sink",
            Self::Reflect => "reflect",
            Self::Generate => "generate",
        }
    }
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
    /// The steering rules, the oldest first.
    ///
    /// # Errors
    ///
    /// A file of rules can't be read, or has a line that is none.
    pub fn rules(&self) -> Result<Vec<Rule>, RuleFileError> {
        rule_args::rules(&self.steer)
    }

    /// The flags that are for a driver on the rings alone, and whether they were given.
    pub fn for_rings(&self) -> [(&'static str, bool); 4] {
        [
            ("--steer", !self.steer.is_empty()),
            ("--answer", self.answer),
            // A pair that is made gets so many.
            ("--queues", self.queues.is_some() && !self.lab),
            ("--mode skb", matches!(self.mode, Mode::Skb)),
        ]
    }

    /// What the flags ask for, with these steering rules. Ends the process with exit status 2 where they do not go
    /// together.
    pub fn spec(&self, rules: &[Rule]) -> DriverSpec {
        let injects = self.driver == DriverName::Sample && !self.no_injector;
        let interval = match self.rate {
            Some(rate) if injects => {
                units::interval_of(rate, self.batch).unwrap_or_else(|message| units::usage_error(&message))
            }
            _ => self.interval,
        };
        let injector = injects.then(|| InjectorSpec {
            first_ns: nanos(self.first),
            interval_ns: nanos(interval),
            batch: self.batch,
            payload_bytes: InjectorConfig::default().payload_len,
            targets: self.target.clone(),
        });
        DriverSpec {
            iface: self.iface.clone(),
            driver: self.driver.name().to_owned(),
            addresses: self.addr.clone(),
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
            injector,
        }
    }
}

/// Durations of the command line end far below the 584 years that fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_a_number_or_all() {
        assert_eq!(queues("all"), Ok(QueueSelection::All));
        assert_eq!(queues("4"), Ok(QueueSelection::First(4)));
        for bad in ["0", "", "-1", "four", "4294967296"] {
            assert!(queues(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }
}
