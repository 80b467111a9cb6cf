//! What ranks' sums travel by, as an operator sets it for a worker: which network interface, and how NCCL goes between
//! devices of one host and of several. NCCL reads it from the environment of a process, so it is set where a rank starts.

use serde::Deserialize;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// Of this host, such as `eth0`: for the ranks' own connections and NCCL's. None: the one that leads to the server.
    pub interface: Option<String>,
    pub hierarchy: Hierarchy,
    pub within_host: WithinHost,
}

/// How NCCL's own sums (`collective_mode: fast`) go over several hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hierarchy {
    /// NCCL chooses by size and topology.
    #[default]
    Auto,
    /// One ring over all devices.
    Flat,
    /// A chain within each host, a tree between hosts.
    Tree,
}

/// How devices of one host reach each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithinHost {
    /// NCCL chooses: device to device where it can.
    #[default]
    Auto,
    /// Through the host's memory.
    Memory,
    /// As between hosts.
    Network,
}

impl Routes {
    /// What the environment of a rank's process gets, beside what the worker's has.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut set = Vec::new();
        if let Some(interface) = &self.interface {
            // Not a prefix, but the name.
            set.push(("NCCL_SOCKET_IFNAME", format!("={interface}")));
        }
        match self.hierarchy {
            Hierarchy::Auto => {}
            Hierarchy::Flat => set.push(("NCCL_ALGO", "allreduce:ring".into())),
            Hierarchy::Tree => set.push(("NCCL_ALGO", "allreduce:tree".into())),
        }
        if self.within_host != WithinHost::Auto {
            set.push(("NCCL_P2P_DISABLE", "1".into()));
        }
        if self.within_host == WithinHost::Network {
            set.push(("NCCL_SHM_DISABLE", "1".into()));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_what_nccl_reads() {
        assert_eq!(Routes::default().environment(), []);
        let routes =
            Routes { interface: Some("eth1".into()), hierarchy: Hierarchy::Tree, within_host: WithinHost::Network };
        let set = |name: &'static str, value: &str| (name, value.to_owned());
        let expected = [
            set("NCCL_SOCKET_IFNAME", "=eth1"),
            set("NCCL_ALGO", "allreduce:tree"),
            set("NCCL_P2P_DISABLE", "1"),
            set("NCCL_SHM_DISABLE", "1"),
        ];
        assert_eq!(routes.environment(), expected);
    }
}
