//! What is aimed for, and how far this run reached: shown, never asserted.

use super::schema::{Aim, Bound, Case, Outcome, Unit};
use super::spread::{Spread, quantile};

const KERNEL: &str = "kernel";
const ANSWER: &str = "netdext --answer";
const SPIN: &str = "netdext driver, spin";
const ADAPTIVE: &str = "netdext driver, adaptive";
const TESTPMD: &str = "dpdk-testpmd icmpecho";
const SINK: &str = "netdext sink, spin";
const FORWARD: &str = "netdext forward, spin";
const TESTPMD_IO: &str = "dpdk-testpmd io";

/// Where a figure is in the report.
#[derive(Clone, Copy, Debug)]
struct Place {
    case: &'static str,
    subject: &'static str,
    parameter: Option<(&'static str, &'static str)>,
}

const fn at(case: &'static str, subject: &'static str) -> Place {
    Place { case, subject, parameter: None }
}

const fn with(case: &'static str, subject: &'static str, name: &'static str, value: &'static str) -> Place {
    Place { case, subject, parameter: Some((name, value)) }
}

/// An aim for a figure, or for the ratio of one to another.
struct Wanted {
    name: &'static str,
    figure: Place,
    over: Option<Place>,
    unit: Unit,
    bound: Bound,
    aim: f64,
}

const fn ratio(name: &'static str, figure: Place, over: Place, bound: Bound, aim: f64) -> Wanted {
    Wanted { name, figure, over: Some(over), unit: Unit::Ratio, bound, aim }
}

const fn at_most(name: &'static str, figure: Place, unit: Unit, aim: f64) -> Wanted {
    Wanted { name, figure, over: None, unit, bound: Bound::AtMost, aim }
}

const INJECTOR: (&str, &str) = ("injector", "10000/s");
const XDP: &str = "netdext";
const XDP_WITH_RULE: &str = "netdext, one rule";
const PACED: (&str, &str) = ("rate", "10000/s");

const WANTED: [Wanted; 28] = [
    ratio(
        "echo rate, --answer / kernel",
        at("echo_rate", ANSWER),
        at("echo_rate", KERNEL),
        Bound::AtLeast,
        7.0,
    ),
    ratio(
        "echo rate, --answer / minimal XDP_TX echo",
        at("echo_rate", ANSWER),
        at("echo_rate", "minimal XDP_TX echo"),
        Bound::AtLeast,
        0.95,
    ),
    ratio("echo rate, spin / kernel", at("echo_rate", SPIN), at("echo_rate", KERNEL), Bound::AtLeast, 1.6),
    ratio("echo rate, spin / testpmd", at("echo_rate", SPIN), at("echo_rate", TESTPMD), Bound::AtLeast, 1.15),
    ratio(
        "rx drop, spin / XDP_DROP",
        at("rx_drop", SINK),
        at("rx_drop", "inside the kernel (XDP_DROP)"),
        Bound::AtLeast,
        0.5,
    ),
    at_most(
        "XDP program, IPv4 echo to the driver",
        with("xdp_cost", XDP, "frame", "IPv4 echo request"),
        Unit::Ns,
        35.0,
    ),
    at_most(
        "XDP program, IPv6 echo to the driver",
        with("xdp_cost", XDP, "frame", "IPv6 echo request"),
        Unit::Ns,
        50.0,
    ),
    at_most(
        "XDP program, TCP to the kernel",
        with("xdp_cost", XDP, "frame", "TCP to the kernel"),
        Unit::Ns,
        15.0,
    ),
    at_most(
        "XDP program with one rule, IPv4 echo",
        with("xdp_cost", XDP_WITH_RULE, "frame", "IPv4 echo request"),
        Unit::Ns,
        60.0,
    ),
    at_most(
        "XDP program with one rule, IPv6 echo",
        with("xdp_cost", XDP_WITH_RULE, "frame", "IPv6 echo request"),
        Unit::Ns,
        60.0,
    ),
    ratio(
        "tx, netdext / testpmd",
        at("tx", "netdext generate, to XDP_DROP"),
        at("tx", "dpdk-testpmd txonly, to XDP_DROP"),
        Bound::AtLeast,
        1.1,
    ),
    ratio(
        "forward, spin / the kernel's bridge",
        at("forward", FORWARD),
        at("forward", "the kernel's bridge"),
        Bound::AtLeast,
        1.0,
    ),
    ratio("forward, spin / testpmd", at("forward", FORWARD), at("forward", TESTPMD_IO), Bound::AtLeast, 1.0),
    ratio(
        "round trip p50 through forward, spin / testpmd",
        at("forward_rtt_p50", FORWARD),
        at("forward_rtt_p50", TESTPMD_IO),
        Bound::AtMost,
        1.1,
    ),
    ratio(
        "round trip p50, --answer / kernel",
        at("echo_rtt_p50", ANSWER),
        at("echo_rtt_p50", KERNEL),
        Bound::AtMost,
        0.8,
    ),
    ratio(
        "round trip p50, spin / testpmd",
        at("echo_rtt_p50", SPIN),
        at("echo_rtt_p50", TESTPMD),
        Bound::AtMost,
        0.9,
    ),
    ratio(
        "round trip p99, spin / testpmd",
        at("echo_rtt_p99", SPIN),
        at("echo_rtt_p99", TESTPMD),
        Bound::AtMost,
        0.9,
    ),
    ratio(
        "round trip p99, injector 10000/s, adaptive / spin",
        with("echo_rtt_p99", ADAPTIVE, INJECTOR.0, INJECTOR.1),
        with("echo_rtt_p99", SPIN, INJECTOR.0, INJECTOR.1),
        Bound::AtMost,
        1.3,
    ),
    ratio(
        "round trip p50, spin, injector 10000/s / none",
        with("echo_rtt_p50", SPIN, INJECTOR.0, INJECTOR.1),
        at("echo_rtt_p50", SPIN),
        Bound::AtMost,
        1.05,
    ),
    ratio(
        "round trip p99, spin, injector 10000/s / none",
        with("echo_rtt_p99", SPIN, INJECTOR.0, INJECTOR.1),
        at("echo_rtt_p99", SPIN),
        Bound::AtMost,
        1.15,
    ),
    at_most(
        "pacing error p99 at 10000/s, spin",
        with("pacing_p99", "netdext generate, spin", PACED.0, PACED.1),
        Unit::Ns,
        5e3,
    ),
    at_most(
        "pacing error p99 at 10000/s, adaptive",
        with("pacing_p99", "netdext generate, adaptive", PACED.0, PACED.1),
        Unit::Ns,
        80e3,
    ),
    at_most("processor time at rest, adaptive", at("idle_cpu", ADAPTIVE), Unit::Percent, 0.5),
    ratio(
        "rx drop, 1518 / 64 bytes",
        with("rx_drop_by_size", SINK, "size", "1518"),
        with("rx_drop_by_size", SINK, "size", "64"),
        Bound::AtLeast,
        0.6,
    ),
    ratio(
        "rx drop, 1000000 rules / 1",
        with("rx_drop_by_rules", SINK, "rules", "1000000"),
        with("rx_drop_by_rules", SINK, "rules", "1"),
        Bound::AtLeast,
        0.9,
    ),
    at_most("start to first reply, driver", at("start", ADAPTIVE), Unit::Ns, 250e6),
    at_most("start to first reply, --answer", at("start", ANSWER), Unit::Ns, 250e6),
    at_most("resident memory, one queue", at("memory", ADAPTIVE), Unit::Bytes, 40.0 * 1_048_576.0),
];

/// The aims, with what these cases say of them.
pub fn look(cases: &[Case]) -> Vec<Aim> {
    WANTED.iter().map(|wanted| wanted.look(cases)).collect()
}

impl Wanted {
    fn look(&self, cases: &[Case]) -> Aim {
        let figure = self.figure(cases);
        let reached = figure.as_ref().ok().map(|figure| match self.bound {
            Bound::AtLeast => *figure >= self.aim,
            Bound::AtMost => *figure <= self.aim,
        });
        Aim {
            name: self.name.to_owned(),
            unit: self.unit,
            bound: self.bound,
            aim: self.aim,
            figure: figure.as_ref().ok().copied(),
            reached,
            not_measured: figure.err(),
        }
    }

    /// The figure, or why there is none.
    fn figure(&self, cases: &[Case]) -> Result<f64, String> {
        let figure = self.figure.measured(cases)?;
        let Some(over) = self.over else { return Ok(figure.median) };
        let over = over.measured(cases)?;
        if over.min <= 0.0 {
            return Err("the figure to compare with is 0".to_owned());
        }
        // Round by round: what the machine was like at the time is in both.
        let ratios = figure.samples.iter().zip(&over.samples).map(|(figure, over)| figure / over);
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        Ok(quantile(&ratios, 0.5))
    }
}

impl Place {
    fn measured<'a>(&self, cases: &'a [Case]) -> Result<&'a Spread, String> {
        let case = cases.iter().find(|case| case.id == self.case);
        let result = case.and_then(|case| case.results.iter().find(|result| self.is_of(result)));
        let result = result.ok_or_else(|| format!("{} is not part of this run", self.describe()))?;
        let why = result.failed.as_ref().or(result.not_available.as_ref());
        result
            .measured
            .as_ref()
            .ok_or_else(|| format!("{}: {}", self.describe(), why.map_or("nothing measured", String::as_str)))
    }

    fn is_of(&self, result: &Outcome) -> bool {
        let parameters = result.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        result.subject == self.subject && parameters.eq(self.parameter)
    }

    fn describe(&self) -> String {
        let parameter = self.parameter.map(|(name, value)| format!(", {name} {value}"));
        format!("{} of {}{}", self.case, self.subject, parameter.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{Bench, all};
    use crate::plan::Plan;
    use crate::process::Netdext;
    use crate::schema::Better;
    use crate::table::tests::outcome;

    fn case(id: &str, results: Vec<Outcome>) -> Case {
        Case { id: id.into(), title: id.into(), unit: Unit::Pps, better: Better::Higher, results }
    }

    fn aim(cases: &[Case], name: &str) -> Aim {
        look(cases).into_iter().find(|aim| aim.name == name).expect(name)
    }

    #[test]
    fn a_ratio_is_the_median_of_those_of_the_rounds_and_its_bound_decides() {
        let name = "echo rate, spin / kernel";
        let with_spin = |samples: &[f64]| {
            let results = vec![outcome(KERNEL, &[1.0, 10.0, 10.0]), outcome(SPIN, samples)];
            aim(&[case("echo_rate", results)], name)
        };
        let reached = with_spin(&[3.0, 30.0, 5.0]);
        assert_eq!((reached.figure, reached.reached, reached.not_measured), (Some(3.0), Some(true), None));
        assert_eq!(with_spin(&[1.0, 15.0, 90.0]).reached, Some(false));
        let memory = |bytes: f64| {
            aim(&[case("memory", vec![outcome(ADAPTIVE, &[bytes])])], "resident memory, one queue")
        };
        assert_eq!((memory(4e7).reached, memory(5e7).reached), (Some(true), Some(false)));
    }

    #[test]
    fn what_is_not_measured_says_why() {
        let name = "echo rate, spin / kernel";
        let missing = case("echo_rate", vec![outcome(KERNEL, &[0.0]), outcome(SPIN, &[])]);
        let missing = aim(&[missing], name);
        assert_eq!((missing.figure, missing.reached), (None, None));
        let why = missing.not_measured.expect("a reason");
        assert_eq!(why, "echo_rate of netdext driver, spin: no <such> thing");
        let zero = case("echo_rate", vec![outcome(KERNEL, &[0.0]), outcome(SPIN, &[1.0])]);
        assert_eq!(aim(&[zero], name).not_measured.as_deref(), Some("the figure to compare with is 0"));
        let nowhere = aim(&[], name).not_measured.expect("a reason");
        assert_eq!(nowhere, "echo_rate of netdext driver, spin is not part of this run");
    }

    #[test]
    fn every_aim_is_about_figures_that_a_full_run_measures() {
        let netdext = Netdext::find(Some("/bin/true".as_ref()), false).expect("a program");
        let bench = Bench { netdext: &netdext, plan: Plan::new(false) };
        let groups = all(&bench);
        for place in WANTED.iter().flat_map(|wanted| [Some(wanted.figure), wanted.over]).flatten() {
            let found = groups.iter().any(|group| {
                group.heads.iter().any(|head| head.id == place.case)
                    && group.entries.iter().any(|entry| {
                        let parameters = entry.parameters().iter();
                        entry.subject() == place.subject
                            && parameters
                                .map(|(name, value)| (name.as_str(), value.as_str()))
                                .eq(place.parameter)
                    })
            });
            assert!(found, "{}", place.describe());
        }
    }
}
