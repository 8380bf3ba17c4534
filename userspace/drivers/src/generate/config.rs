//! What the generator is to send.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::frame::FrameKind;
use netdext::proto::MacAddr;

/// The frame check sequence: counted in the sizes that people speak of, and added by the device.
pub const FCS_LEN: usize = 4;
/// The shortest Ethernet frame, FCS included.
pub const SHORTEST: usize = 64;
/// The longest frame that a size may ask for, FCS included; the MTU of the interface limits it further.
pub const LONGEST: usize = 9018;
/// Different flows at the most: a flow is a UDP source port or an echo identifier, and those below 1024 are left out.
pub const MAX_FLOWS: u32 = 64_512;
/// Frames in one round of a mix at the most.
const MAX_ROUND: u32 = 4096;

/// How often frames are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// So many frames a second on a schedule, over all queues together.
    PerSecond(f64),
}

/// What the generator sends.
#[derive(Clone, Debug)]
pub struct GenerateConfig {
    /// What the frames are.
    pub frames: FrameKind,
    /// The IP address that they are sent to.
    pub target: IpAddr,
    /// The MAC address that they are sent to: the target's, or that of the router on the way.
    pub destination_mac: MacAddr,
    /// Their sizes.
    pub sizes: SizeMix,
    /// Over how many flows they are spread, 1 to [`MAX_FLOWS`].
    pub flows: u32,
    /// How often.
    pub rate: Rate,
    /// How many in all; `None` is without an end.
    pub count: Option<u64>,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateConfigError {
    /// There is no such mix of sizes.
    #[error("'{0}' is no mix of frame sizes; for example 64 or 64:7,594:4,1518:1")]
    BadMix(String),
    /// An Ethernet frame has another size.
    #[error("a frame of {0} bytes: it is {SHORTEST} to {LONGEST}, FCS included")]
    BadSize(usize),
    /// One round of the mix is too long.
    #[error(
        "the weights of the sizes add up to {0}: {MAX_ROUND} is the most; 64:7,594:4,1518:1 adds up to 12"
    )]
    LongRound(u64),
    /// There are not so many different port numbers.
    #[error("{0} flows: it is 1 to {MAX_FLOWS}")]
    BadFlows(u32),
    /// Not a number of frames a second.
    #[error("{0} frames a second: give a positive number, for example 10000/s, or max")]
    BadRate(f64),
}

impl GenerateConfig {
    /// Whether it can work, as far as that can be said without the interface.
    ///
    /// # Errors
    ///
    /// [`GenerateConfigError`].
    pub fn check(&self) -> Result<(), GenerateConfigError> {
        if !(1..=MAX_FLOWS).contains(&self.flows) {
            return Err(GenerateConfigError::BadFlows(self.flows));
        }
        match self.rate {
            Rate::PerSecond(rate) if !(rate.is_finite() && rate > 0.0) => {
                Err(GenerateConfigError::BadRate(rate))
            }
            _ => Ok(()),
        }
    }
}

/// Frame sizes in bytes, FCS included as in RFC 2544, and how often each comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix {
    sizes: Vec<usize>,
    /// One round: for each frame the index of its size.
    round: Vec<u8>,
    text: String,
}

impl Default for SizeMix {
    /// The shortest alone.
    fn default() -> Self {
        Self { sizes: vec![SHORTEST], round: vec![0], text: SHORTEST.to_string() }
    }
}

impl SizeMix {
    /// The different sizes.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// One round of the mix: indices into [`sizes`](Self::sizes).
    pub(super) fn round(&self) -> &[u8] {
        &self.round
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SizeMix {
    type Err = GenerateConfigError;

    /// `SIZE[:WEIGHT]` and more of them after commas; a weight that is left out is 1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || GenerateConfigError::BadMix(text.to_owned());
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let size: usize = size.parse().map_err(|_| bad())?;
            let weight: u32 = weight.parse().ok().filter(|weight| *weight > 0).ok_or_else(bad)?;
            if !(SHORTEST..=LONGEST).contains(&size) {
                return Err(GenerateConfigError::BadSize(size));
            }
            parts.push((size, weight));
        }
        let total: u64 = parts.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if total > MAX_ROUND.into() {
            return Err(GenerateConfigError::LongRound(total));
        }
        if parts.len() > usize::from(u8::MAX) {
            return Err(bad());
        }
        let round = interleave(&parts.iter().map(|(_, weight)| i64::from(*weight)).collect::<Vec<_>>());
        Ok(Self { sizes: parts.into_iter().map(|(size, _)| size).collect(), round, text: text.to_owned() })
    }
}

/// Spreads each index evenly over the round: in each place comes what is furthest behind its share.
fn interleave(weights: &[i64]) -> Vec<u8> {
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0; weights.len()];
    let mut round = Vec::with_capacity(total as usize);
    for _ in 0..total {
        for (credit, weight) in credit.iter_mut().zip(weights) {
            *credit += weight;
        }
        let mut next = 0;
        for (index, have) in credit.iter().enumerate() {
            if *have > credit[next] {
                next = index;
            }
        }
        credit[next] -= total;
        round.push(next as u8);
    }
    round
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_has_each_size_as_often_as_its_weight_says_and_evenly_spread() {
        let mix: SizeMix = "64:7,594:4,1518:1".parse().unwrap();
        assert_eq!(mix.sizes(), [64, 594, 1518]);
        let count = |index| mix.round().iter().filter(|&&found| found == index).count();
        assert_eq!((count(0), count(1), count(2)), (7, 4, 1));
        // Never more than two of the most frequent in a row, as 7 of 12 can be spread.
        let longest = mix.round().chunk_by(|a, b| a == b).map(<[u8]>::len).max();
        assert_eq!(longest, Some(2), "{:?}", mix.round());
        assert_eq!(mix.to_string(), "64:7,594:4,1518:1");
    }

    #[test]
    fn a_size_alone_is_a_mix() {
        let mix: SizeMix = "1518".parse().unwrap();
        assert_eq!((mix.sizes(), mix.round()), (&[1518][..], &[0][..]));
        assert_eq!("64".parse(), Ok(SizeMix::default()));
    }

    #[test]
    fn what_is_no_mix_is_refused_with_an_example() {
        for bad in ["", "64:", ":7", "64:0", "x", "64;7", "64,", "-64", "64:4294967296"] {
            let error = bad.parse::<SizeMix>().unwrap_err().to_string();
            assert!(error.contains("for example"), "{bad:?}: {error}");
        }
        assert_eq!("63".parse::<SizeMix>(), Err(GenerateConfigError::BadSize(63)));
        assert_eq!("9019".parse::<SizeMix>(), Err(GenerateConfigError::BadSize(9019)));
        assert_eq!("64:4096,65".parse::<SizeMix>(), Err(GenerateConfigError::LongRound(4097)));
    }

    #[test]
    fn flows_and_rates_are_checked() {
        let config = |flows, rate| GenerateConfig {
            frames: FrameKind::Udp,
            target: [198, 18, 0, 2].into(),
            destination_mac: [2; 6],
            sizes: "64".parse().unwrap(),
            flows,
            rate,
            count: None,
        };
        assert_eq!(config(1, Rate::Max).check(), Ok(()));
        assert_eq!(config(MAX_FLOWS, Rate::PerSecond(0.5)).check(), Ok(()));
        for flows in [0, MAX_FLOWS + 1] {
            assert_eq!(config(flows, Rate::Max).check(), Err(GenerateConfigError::BadFlows(flows)));
        }
        assert!(config(1, Rate::PerSecond(0.0)).check().is_err());
        assert!(config(1, Rate::PerSecond(f64::NAN)).check().is_err());
    }
}
