//! Offload settings of an interface, through ethtool netlink.
//!
//! A sender's offloads put things on a veth that hardware would finish before the wire: packets without
//! checksum, larger than the MTU, with the VLAN tag beside the frame. An XDP program sees them unfinished.

use std::collections::BTreeSet;
use std::io;

use ethtool::{EthtoolAttr, EthtoolError, EthtoolFeatureAttr};
use futures_util::StreamExt;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};

use super::netlink::check_name;

/// Features of the host end of a pair that must be off for its frames to be complete at the driver end, by
/// their kernel names (net/ethtool/common.c).
pub const UNFINISHED_FRAMES: &[&str] = &[
    // Checksums left to the device: ping works, TCP and UDP fail.
    "tx-checksum-ipv4",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv6",
    "tx-checksum-sctp",
    // Segmentation left to the device: frames larger than a chunk of the UMEM.
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-accecn-segmentation",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-gso-list",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    // The tag carried beside the frame: an XDP program does not see it.
    "tx-vlan-hw-insert",
    "tx-vlan-stag-hw-insert",
];

/// A feature that could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// The kernel refused, or has no ethtool netlink (before 5.6).
    #[error("{operation}: {source}")]
    Netlink {
        /// What was asked, with its parameters.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The driver keeps a feature on.
    #[error("{iface} keeps {} on: frames from there can arrive unfinished", features.join(", "))]
    KeptOn {
        /// The interface.
        iface: String,
        /// The features that are still on.
        features: Vec<String>,
    },
}

/// The names of the features that are on, except `tx-scatter-gather` (bit 0, which the ethtool crate skips).
///
/// # Errors
/// [`OffloadError::Netlink`].
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn active_features(iface: &str) -> Result<BTreeSet<String>, OffloadError> {
    let failed =
        |source| OffloadError::Netlink { operation: format!("read the features of {iface}"), source };
    check_name(iface).map_err(|e| failed(io::Error::other(e)))?;
    let (connection, mut handle, _) = ethtool::new_connection().map_err(failed)?;
    tokio::spawn(connection);
    let replies = handle.feature().get(Some(iface)).execute().await;
    let mut replies = Box::pin(replies.map_err(|e| failed(errno(e)))?);
    let mut active = BTreeSet::new();
    while let Some(reply) = replies.next().await {
        for attribute in reply.map_err(|e| failed(errno(e)))?.payload.nlas {
            if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
                active.extend(bits.into_iter().map(|bit| bit.name));
            }
        }
    }
    Ok(active)
}

/// Switches features on or off; one that the driver can't change stays as it is, which is no error here.
///
/// # Errors
/// [`OffloadError::Netlink`], also for a name that the kernel does not know.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn set_features(iface: &str, features: &[&str], on: bool) -> Result<(), OffloadError> {
    let verb = if on { "on" } else { "off" };
    let failed = |source| OffloadError::Netlink {
        operation: format!("switch {verb} {} of {iface}", features.join(", ")),
        source,
    };
    check_name(iface).map_err(|e| failed(io::Error::other(e)))?;
    let (connection, mut handle, _) = ethtool::new_connection().map_err(failed)?;
    tokio::spawn(connection);
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(FeaturesSet::new(iface, features, on)));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let replies = handle.handle.request(request).await;
    let mut replies = Box::pin(replies.map_err(|e| failed(io::Error::other(e)))?);
    while let Some(reply) = replies.next().await {
        let reply = reply.map_err(|e| failed(io::Error::other(e)))?;
        if let NetlinkPayload::Error(error) = reply.payload {
            return Err(failed(error.to_io()));
        }
    }
    Ok(())
}

/// Switches off whatever of [`UNFINISHED_FRAMES`] is on, and returns it for [`set_features`] to restore.
///
/// # Errors
/// [`OffloadError::KeptOn`] if the driver keeps one on; [`OffloadError::Netlink`].
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn finish_frames(iface: &str) -> Result<Vec<&'static str>, OffloadError> {
    let were_on = unfinished(&active_features(iface).await?);
    if were_on.is_empty() {
        return Ok(were_on);
    }
    set_features(iface, &were_on, false).await?;
    let kept = unfinished(&active_features(iface).await?);
    if kept.is_empty() {
        return Ok(were_on);
    }
    let features = kept.into_iter().map(str::to_owned).collect();
    Err(OffloadError::KeptOn { iface: iface.to_owned(), features })
}

fn unfinished(active: &BTreeSet<String>) -> Vec<&'static str> {
    UNFINISHED_FRAMES.iter().copied().filter(|name| active.contains(*name)).collect()
}

fn errno(error: EthtoolError) -> io::Error {
    match error {
        EthtoolError::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

// linux/ethtool_netlink.h; the ethtool crate can't write features.
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 1 << 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// `ETHTOOL_MSG_FEATURES_SET`: the bits that are listed change, to on if they carry the value flag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FeaturesSet {
    attributes: Vec<DefaultNla>,
}

impl FeaturesSet {
    fn new(iface: &str, features: &[&str], on: bool) -> Self {
        let bits: Vec<_> = features
            .iter()
            .map(|name| {
                let mut bit = vec![string(ETHTOOL_A_BITSET_BIT_NAME, name)];
                if on {
                    bit.push(DefaultNla::new(ETHTOOL_A_BITSET_BIT_VALUE, Vec::new()));
                }
                nested(ETHTOOL_A_BITSET_BITS_BIT, &bit)
            })
            .collect();
        let header = [
            string(ETHTOOL_A_HEADER_DEV_NAME, iface),
            DefaultNla::new(ETHTOOL_A_HEADER_FLAGS, ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes().to_vec()),
        ];
        Self {
            attributes: vec![
                nested(ETHTOOL_A_FEATURES_HEADER, &header),
                nested(ETHTOOL_A_FEATURES_WANTED, &[nested(ETHTOOL_A_BITSET_BITS, &bits)]),
            ],
        }
    }
}

fn string(kind: u16, text: &str) -> DefaultNla {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nested(kind: u16, children: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; children.buffer_len()];
    children.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

impl GenlFamily for FeaturesSet {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        ETHTOOL_MSG_FEATURES_SET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for FeaturesSet {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for FeaturesSet {
    fn parse_with_param(_: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let cmd = header.cmd;
        Err(DecodeError::from(format!("ethtool message {cmd} came, though no reply was asked for")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::blocking;
    use super::*;

    #[test]
    fn the_request_is_laid_out_as_the_kernel_expects() {
        let request = FeaturesSet::new("v0", &["tx-a"], true);
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut bytes);
        #[rustfmt::skip]
        let expected: &[u8] = &[
            20, 0, 1, 0x80,                           // header, nested
                7, 0, 2, 0, b'v', b'0', 0, 0,         //   name, padded to 4
                8, 0, 3, 0, 2, 0, 0, 0,               //   flags: no reply
            28, 0, 3, 0x80,                           // wanted, nested
                24, 0, 3, 0x80,                       //   bits
                    20, 0, 1, 0x80,                   //     bit
                        9, 0, 2, 0, b't', b'x', b'-', b'a', 0, 0, 0, 0,
                        4, 0, 3, 0,                   //       value: on
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(bytes, expected);
        }
        assert_eq!(FeaturesSet::new("v0", &["tx-a"], false).buffer_len(), bytes.len() - 4);
    }

    #[test]
    fn features_of_an_unknown_interface_are_an_error_that_names_it() {
        let error = blocking(async || active_features("nxt-nothing").await).unwrap().unwrap_err();
        assert!(error.to_string().starts_with("read the features of nxt-nothing: "), "{error}");
    }
}
