//! What an interface's driver can do with XDP, as the kernel says (generic netlink `netdev`, Linux 6.3).

use futures_util::StreamExt;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NlasIterator, ParseableParametrized,
};

/// A set of `NETDEV_XDP_ACT_*` bits (linux/netdev.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Programs run in the driver: pass, drop, transmit.
    pub const BASIC: u64 = 1;
    /// Programs can redirect frames from here.
    pub const REDIRECT: u64 = 2;
    /// AF_XDP sockets share the device's memory.
    pub const ZERO_COPY: u64 = 8;

    /// Whether all of `bits` are there.
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

/// Asks for the XDP features of the interface `index`; `None` where the kernel can't say.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn xdp_features(index: u32) -> Option<XdpFeatures> {
    // Any generic netlink socket will do: the family is found by name.
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    tokio::spawn(connection);
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(DevGet { index, features: None }));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut replies = Box::pin(handle.handle.request(request).await.ok()?);
    while let Some(reply) = replies.next().await {
        match reply.ok()?.payload {
            NetlinkPayload::InnerMessage(message) => return message.payload.features.map(XdpFeatures),
            NetlinkPayload::Error(_) => return None,
            _ => {}
        }
    }
    None
}

// linux/netdev.h
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// `NETDEV_CMD_DEV_GET`, request and reply.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DevGet {
    index: u32,
    features: Option<u64>,
}

impl DevGet {
    fn attribute(&self) -> DefaultNla {
        DefaultNla::new(NETDEV_A_DEV_IFINDEX, self.index.to_ne_bytes().to_vec())
    }
}

impl GenlFamily for DevGet {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for DevGet {
    fn buffer_len(&self) -> usize {
        self.attribute().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attribute().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for DevGet {
    fn parse_with_param(payload: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut reply = Self { index: 0, features: None };
        for attribute in NlasIterator::new(payload) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                NETDEV_A_DEV_IFINDEX => reply.index = u32::from_ne_bytes(exactly(value)?),
                NETDEV_A_DEV_XDP_FEATURES => reply.features = Some(u64::from_ne_bytes(exactly(value)?)),
                _ => {}
            }
        }
        Ok(reply)
    }
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::from(format!("{} bytes where {N} belong", value.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_and_a_short_one_refused() {
        let mut bytes = vec![8, 0, 1, 0];
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend([12, 0, 3, 0]);
        bytes.extend(0x23_u64.to_ne_bytes());
        let header = GenlHeader { cmd: NETDEV_CMD_DEV_GET, version: 1 };
        if cfg!(target_endian = "little") {
            let reply = DevGet::parse_with_param(&bytes, header).unwrap();
            assert_eq!(reply, DevGet { index: 7, features: Some(0x23) });
            assert!(DevGet::parse_with_param(&[6, 0, 1, 0, 7, 0, 0, 0], header).is_err());
        }
        let features = XdpFeatures(0x23);
        assert!(features.has(XdpFeatures::BASIC | XdpFeatures::REDIRECT));
        assert!(!features.has(XdpFeatures::ZERO_COPY));
    }
}
