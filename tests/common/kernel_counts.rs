//! What the kernel counts where it drops packets by itself, in the namespaces of a network.

use lab::{Netns, Topology};
use std::collections::BTreeMap;
use std::fs::read_to_string;

/// Counters of /proc/net/dev, by their place in a line (net/core/net-procfs.c).
const DEVICE: [(usize, &str); 6] = [
    (2, "rx_errors"),
    (3, "rx_dropped"),
    (4, "rx_fifo_errors"),
    (10, "tx_errors"),
    (11, "tx_dropped"),
    (12, "tx_fifo_errors"),
];
/// Counters of /proc/net/snmp that stand for packets dropped.
const PROTOCOLS: [(&str, &[&str]); 2] = [
    ("Ip", &["InHdrErrors", "InAddrErrors", "InDiscards", "OutDiscards", "OutNoRoutes"]),
    ("Udp", &["NoPorts", "InErrors", "MemErrors"]),
];

/// Counters by name, as in `switch director tx_dropped`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCounts(BTreeMap<String, u64>);

impl KernelCounts {
    /// Reads all of them.
    pub fn read(topology: &Topology) -> KernelCounts {
        let mut counts = BTreeMap::new();
        let named = [
            ("client", &topology.client),
            ("router", &topology.router),
            ("switch", &topology.switch),
            ("director", &topology.director),
        ];
        let named = named.map(|(name, netns)| (name.to_owned(), netns)).into_iter();
        let real_servers = topology.real_servers.iter().zip(1..);
        let real_servers = real_servers.map(|(netns, number)| (format!("rs{number}"), netns));
        for (name, netns) in named.chain(real_servers) {
            read_namespace(&name, netns, &mut counts);
        }
        // One line a core, of all namespaces; the second number is what the backlog dropped.
        let softnet = read_to_string("/proc/net/softnet_stat").unwrap();
        let dropped = softnet.lines().map(|line| line.split_whitespace().nth(1).unwrap());
        let dropped = dropped.map(|number| u64::from_str_radix(number, 16).unwrap());
        counts.insert("softnet backlog dropped".into(), dropped.sum());
        KernelCounts(counts)
    }

    /// What has grown since, and by how much.
    pub fn since(&self, before: &KernelCounts) -> KernelCounts {
        let grown = self.0.iter().map(|(name, &now)| (name.clone(), now - before.0[name]));
        KernelCounts(grown.filter(|&(_, more)| more > 0).collect())
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }
}

fn read_namespace(name: &str, netns: &Netns, counts: &mut BTreeMap<String, u64>) {
    // A thread's own: /proc/net is that of the process's first thread.
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        netns.run(|| read_to_string(&path)).unwrap().unwrap()
    };
    for line in read("dev").lines().skip(2) {
        let (device, numbers) = line.split_once(':').unwrap();
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
        for (at, counter) in DEVICE {
            counts.insert(format!("{name} {} {counter}", device.trim()), numbers[at]);
        }
    }
    let snmp = read("snmp");
    let lines: Vec<&str> = snmp.lines().collect();
    for pair in lines.chunks_exact(2) {
        let (protocol, names) = pair[0].split_once(':').unwrap();
        let Some((_, wanted)) = PROTOCOLS.iter().find(|(name, _)| *name == protocol) else {
            continue;
        };
        let values = pair[1].split_whitespace().skip(1);
        for (counter, value) in names.split_whitespace().zip(values) {
            if wanted.contains(&counter) {
                counts.insert(format!("{name} {protocol} {counter}"), value.parse().unwrap());
            }
        }
    }
}
