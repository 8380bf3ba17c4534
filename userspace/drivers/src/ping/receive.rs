//! What the probe adds to a station on the link: replies to its requests.

use super::config::PingConfig;
use super::state::State;
use crate::neighbors::Neighbors;
use crate::outcome::Handled;
use crate::station::Station;
use netdext::dispatch::Timestamp;
use netdext::proto::echo::EchoReply;

/// The shared state, with what it goes by.
pub(super) struct Probe<'a> {
    pub(super) config: &'a PingConfig,
    pub(super) state: &'a mut State,
}

impl Station for Probe<'_> {
    fn neighbors(&mut self) -> &mut Neighbors {
        &mut self.state.neighbors
    }

    fn reply(&mut self, reply: &EchoReply<'_>, hop_limit: u8, at: Timestamp) -> Option<Handled> {
        let handled = self.state.reply(self.config, reply, hop_limit, at);
        self.state.tell_if_finished(self.config);
        handled
    }
}
