//! How much is measured, and when it is enough.

use std::time::Duration;

/// How much is measured.
///
/// ```text
///   round 1: every group            always
///   round 2: every group, in turn   while the budget lasts
///   round 3: ...
/// ```
/// A round goes through all groups before the next one begins, so that a slow machine leaves rounds out and not
/// subjects. A group that would overrun the budget is left out of a round; a shorter one may still fit.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Less of everything.
    pub quick: bool,
    /// Samples of each figure, if there is time for them.
    pub rounds: usize,
    /// How long one sample takes, its preparation not included.
    pub time: Duration,
    /// How long a driver is watched at rest.
    pub rest: Duration,
    /// When rounds are left out. Below what is promised (two minutes, fifteen minutes), because a group may take longer
    /// than it did before.
    pub budget: Duration,
}

impl Plan {
    /// `--quick` or not.
    pub const fn new(quick: bool) -> Self {
        if quick {
            Self {
                quick,
                rounds: 3,
                time: Duration::from_millis(300),
                rest: Duration::from_millis(500),
                budget: Duration::from_secs(100),
            }
        } else {
            Self {
                quick,
                rounds: 5,
                time: Duration::from_millis(1000),
                rest: Duration::from_millis(1000),
                budget: Duration::from_secs(800),
            }
        }
    }

    /// Whether a group is measured in a round, the first being 0. `used`: since the beginning; `took`: the group's
    /// last round.
    pub fn has_time_for(&self, round: usize, used: Duration, took: Duration) -> bool {
        round == 0 || used + took <= self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_is_whole_and_later_ones_stay_within_the_budget() {
        let plan = Plan::new(true);
        let second = Duration::from_secs;
        assert!(plan.has_time_for(0, second(500), second(9)));
        assert!(plan.has_time_for(1, second(91), second(9)));
        assert!(!plan.has_time_for(1, second(92), second(9)));
        assert!(plan.has_time_for(2, second(92), second(3)), "a shorter one fits");
        assert!(plan.budget < second(110) && Plan::new(false).budget < second(900));
    }
}
