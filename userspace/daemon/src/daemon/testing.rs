//! What the tests of the daemon share.

use crate::control::protocol::Identity;
use crate::registry::Installed;
use crate::spec::DriverSpec;
use netdext_host::worker::WaitStrategy;
use netdext_host::xdp::program::XdpMode;

pub(super) fn installed(bundle_id: &str, iface: &str) -> Installed {
    Installed {
        identity: Identity {
            team_id: "A123456789".into(),
            bundle_id: bundle_id.into(),
            version: "1.0/1".into(),
            name: bundle_id.into(),
        },
        spec: DriverSpec {
            iface: iface.into(),
            other_ifaces: Vec::new(),
            driver: "sample".into(),
            options: serde_json::Value::Null,
            addresses: Vec::new(),
            mode: XdpMode::Auto,
            wait: WaitStrategy::Adaptive,
            queues: None,
            steer: Vec::new(),
            answer: false,
            answer_limit: None,
            yes: false,
            replace: false,
            lab: false,
        },
        enabled: true,
        powered: true,
        rules: Vec::new(),
        made_link: false,
    }
}
