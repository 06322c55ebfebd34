//! The control plane and its workers in the test's own process, on real AF_XDP queues: for what
//! must be watched, or told, from closer than a running program allows.

use dataplane::{Seeds, Worker, workers};
use director::clock;
use director::config::Config as DirectorConfig;
use director::neighbors::{KernelState, Reach};
use director::plugin_store::PluginStore;
use director::plugins::Plugins;
use director::scheduler_name::stock_only;
use director::seats::{ServedInterface, WorkerSeat};
use director::supervisor::Supervisor;
use lab::{Family, NIC, real_server_address, real_server_mac};
use plugin_host::{Limits, PluginHost};
use std::path::PathBuf;
use xsk::{InterfaceOptions, XskPort};

/// Runs a future of the control plane to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A control plane as the config has it, for these workers.
pub fn supervise(
    config: &lab::Config,
    interface: ServedInterface,
    seats: Vec<WorkerSeat>,
    limits: Limits,
) -> Supervisor {
    let text = config.text("/unused".as_ref());
    let config = DirectorConfig::parse(&text, &stock_only).unwrap();
    let store = PluginStore::read("/unused".as_ref()).unwrap();
    let plugins = Plugins::new(PluginHost::new(limits).unwrap(), store);
    Supervisor::new(config, PathBuf::from("/unused"), vec![interface], seats, plugins, 3)
}

/// The director's NIC opened, with a worker for each queue. To be called inside its namespace.
/// Nothing has begun, nothing is attached.
pub fn open(config: &lab::Config) -> (Supervisor, Vec<Worker<XskPort>>) {
    let text = config.text("/unused".as_ref());
    let capacity = DirectorConfig::parse(&text, &stock_only).unwrap().capacity;
    let interface = xsk::open(&InterfaceOptions::new(NIC)).unwrap();
    let made = workers(interface.ports, capacity, Seeds([1, 2])).unwrap();
    let (made, handles): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let seats = handles
        .into_iter()
        .zip(interface.monitors)
        .map(|(handle, monitor)| WorkerSeat::new(0, monitor.queue(), 0, handle, Some(monitor)))
        .collect();
    let xsk::Interface { name, index, mac, steer, .. } = interface;
    let served = ServedInterface::new(name, index, mac, Some(steer));
    (supervise(config, served, seats, Limits::default()), made)
}

/// Tells the control plane that the real servers are on the link, with these VLAN tags.
pub fn resolve(supervisor: &mut Supervisor, families: &[Family], servers: u8, vlans: [u16; 2]) {
    let link = supervisor.interfaces[0].index;
    for &family in families {
        for number in 1..=servers {
            let address = real_server_address(number, family);
            supervisor
                .neighbors
                .place(address, Reach::OnLink { interface: 0, link, vlans, source: None });
            let mac = Some(real_server_mac(number));
            supervisor.neighbors.learned(link, address, KernelState::Permanent, mac, clock::now());
        }
    }
}
