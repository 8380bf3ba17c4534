//! The states of a driver and the legal changes between them.
//!
//! ```text
//!            Init          Start           PowerOn          Enable
//!   Created ------> Ready -------> PoweredOff -------> Idle -------> Running
//!                                      ^   <-------     ^  <-------    |
//!                                      |   PowerOff     |   Disable    | PowerOff
//!                              Disable |                | Disable      v
//!                                      +------------ Asleep <----------+
//!                                                     |  PowerOn: back to Running
//!   any of these -- Fail --> Failed -- Stop --> Stopped
//!   any started state -- Stop --> Stopped
//! ```

use serde::{Deserialize, Serialize};

/// Where a driver is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Made, nothing called yet.
    Created,
    /// `init` returned.
    Ready,
    /// `start` returned; powered off, interface disabled.
    PoweredOff,
    /// Powered on, interface disabled.
    Idle,
    /// Powered on, interface enabled: packets and timers.
    Running,
    /// Powered off while the interface is enabled; powering on resumes.
    Asleep,
    /// A callback failed.
    Failed,
    /// `stop` returned.
    Stopped,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// `init`.
    Init,
    /// `start`.
    Start,
    /// `set_power_state(On)`.
    PowerOn,
    /// `set_power_state(Off)`.
    PowerOff,
    /// `set_interface_enable(true)`.
    Enable,
    /// `set_interface_enable(false)`.
    Disable,
    /// A callback returned an error.
    Fail,
    /// `stop`.
    Stop,
}

/// A change that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{transition:?} is not possible in state {state:?}")]
pub struct IllegalTransition {
    /// The state in which it was asked for.
    pub state: State,
    /// What was asked for.
    pub transition: Transition,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Ready,
        Self::PoweredOff,
        Self::Idle,
        Self::Running,
        Self::Asleep,
        Self::Failed,
        Self::Stopped,
    ];

    /// The state after `transition`.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if it is not legal in this state.
    pub fn after(self, transition: Transition) -> Result<Self, IllegalTransition> {
        use State::{Asleep, Created, Failed, Idle, PoweredOff, Ready, Running, Stopped};
        use Transition::{Disable, Enable, Fail, Init, PowerOff, PowerOn, Start, Stop};
        Ok(match (self, transition) {
            (Created, Init) => Ready,
            (Ready, Start) => PoweredOff,
            (PoweredOff, PowerOn) => Idle,
            (PoweredOff, Enable) => Asleep,
            (Idle, Enable) => Running,
            (Idle, PowerOff) => PoweredOff,
            (Running, Disable) => Idle,
            (Running, PowerOff) => Asleep,
            (Asleep, PowerOn) => Running,
            (Asleep, Disable) => PoweredOff,
            (Created | Ready | PoweredOff | Idle | Running | Asleep, Fail) => Failed,
            (PoweredOff | Idle | Running | Asleep | Failed, Stop) => Stopped,
            _ => return Err(IllegalTransition { state: self, transition }),
        })
    }

    /// Whether packets and timers reach the driver in this state.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Running)
    }
}

impl Transition {
    /// Every change.
    pub const ALL: [Self; 8] = [
        Self::Init,
        Self::Start,
        Self::PowerOn,
        Self::PowerOff,
        Self::Enable,
        Self::Disable,
        Self::Fail,
        Self::Stop,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as a grid: a row a state, a column a transition, in the order of `ALL`; `.` is illegal.
    const TABLE: [(&str, State); 8] = [
        ("R.....F.", State::Created),
        (".O....F.", State::Ready),
        ("..I.A.FS", State::PoweredOff),
        ("...OU.FS", State::Idle),
        ("...A.IFS", State::Running),
        ("..U..OFS", State::Asleep),
        (".......S", State::Failed),
        ("........", State::Stopped),
    ];

    fn letter(state: State) -> char {
        match state {
            State::Created => 'C',
            State::Ready => 'R',
            State::PoweredOff => 'O',
            State::Idle => 'I',
            State::Running => 'U',
            State::Asleep => 'A',
            State::Failed => 'F',
            State::Stopped => 'S',
        }
    }

    #[test]
    fn every_pair_of_state_and_transition_is_as_the_table_says() {
        for ((row, state), expected_state) in TABLE.into_iter().zip(State::ALL) {
            assert_eq!(state, expected_state, "rows follow State::ALL");
            for (cell, transition) in row.chars().zip(Transition::ALL) {
                let got = state.after(transition).map_or('.', letter);
                assert_eq!(got, cell, "{state:?} after {transition:?}");
            }
        }
    }

    #[test]
    fn every_state_but_created_can_be_reached_from_created() {
        let mut reached = vec![State::Created];
        let mut next = 0;
        while next < reached.len() {
            for transition in Transition::ALL {
                if let Ok(state) = reached[next].after(transition)
                    && !reached.contains(&state)
                {
                    reached.push(state);
                }
            }
            next += 1;
        }
        assert_eq!(reached.len(), State::ALL.len());
    }

    #[test]
    fn a_stopped_driver_never_lives_again() {
        assert!(Transition::ALL.iter().all(|&transition| State::Stopped.after(transition).is_err()));
    }
}
