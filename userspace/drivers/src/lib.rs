//! The drivers that come with netdext.

pub mod forward;
pub mod generate;
pub mod neighbors;
mod outcome;
mod pending;
pub mod ping;
pub mod reflect;
mod requests;
pub mod sample;
pub mod sink;
mod station;

// The bench of the tests, under a short name.
#[cfg(test)]
use netdext::testing;

/// The drivers that `--driver` takes; the sample driver is the first.
#[cfg(feature = "cli")]
pub fn builtin() -> netdext::registry::Registry {
    netdext::registry::Registry::new()
        .with::<sample::Sample>()
        .with::<sink::Sink>()
        .with::<reflect::Reflect>()
        .with::<generate::Generate>()
        .with::<forward::Forward>()
}
