//! A director in memory: workers over memory ports, a plan of services, and a clock in hand.

use crate::answer::{check_reset, is_answered_by};
use crate::plan::Plan;
use crate::{DIRECTOR_MAC, RoundRobin};
use dataplane::{
    Capacity, DropReason, FlowRecord, Handle, Instance, Load, Millis, Protocol, Scheduler, Seeds,
    ServerIndex, ServiceIndex, Settings, Update, Worker, WorkerCounts, workers,
};
use std::net::IpAddr;
use std::sync::Arc;
use xsk::{BURST_MAX, MemoryPort, Port};

/// The seeds of every director in memory.
pub const SEEDS: Seeds = Seeds([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]);

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It left for this MAC address.
    Forwarded([u8; 6]),
    /// It was dropped.
    Dropped(DropReason),
}

/// Workers over memory ports. Every packet that goes through [`Director::send`] is checked: what
/// leaves differs in its MAC addresses only, and the books balance ([`Director::check`]).
pub struct Director {
    /// One a queue.
    pub workers: Vec<Worker<MemoryPort>>,
    /// What the control thread keeps of them.
    pub handles: Vec<Handle>,
    /// The services; [`Director::publish`] tells the workers.
    pub plan: Plan,
    /// The time of the next turn.
    pub now: Millis,
}

impl Director {
    /// One worker with room for a thousand flows, and a turning scheduler for every service.
    pub fn new(plan: Plan) -> Director {
        Director::with(plan, 1, Capacity { flows_v4: 1000, flows_v6: 1000 })
    }

    /// So many workers with this capacity, and a turning scheduler for every service.
    pub fn with(plan: Plan, queues: usize, capacity: Capacity) -> Director {
        let ports = (0..queues).map(|_| MemoryPort::new(DIRECTOR_MAC, 256)).collect();
        let (workers, handles) =
            workers(ports, capacity, SEEDS).expect("memory for the tables").into_iter().unzip();
        let mut director = Director { workers, handles, plan, now: 1_000_000 };
        for service in (0..director.plan.services.len() as u16).map(ServiceIndex) {
            for worker in 0..queues {
                director.set_scheduler(worker, service, Box::new(RoundRobin::default()));
            }
        }
        director.publish();
        director
    }

    /// Tells all workers of the plan as it is now.
    pub fn publish(&mut self) {
        let table = Arc::new(self.plan.table());
        for worker in 0..self.workers.len() {
            self.update(worker, Update { table: Some(table.clone()), ..Update::default() });
        }
    }

    /// Tells all workers of these settings.
    pub fn set(&mut self, settings: Settings) {
        for worker in 0..self.workers.len() {
            self.update(worker, Update { settings: Some(settings), ..Update::default() });
        }
    }

    /// Gives one worker's service this scheduler, and returns the instance's counters.
    pub fn set_scheduler(
        &mut self,
        worker: usize,
        service: ServiceIndex,
        scheduler: Box<dyn Scheduler>,
    ) -> Arc<dataplane::SchedulerCounters> {
        let instance = Instance::new(scheduler);
        let counters = instance.counters().clone();
        let schedulers = vec![(service, Some(instance))];
        self.update(worker, Update { schedulers, ..Update::default() });
        counters
    }

    /// Sends one worker an update, has it adopted in an empty turn and takes it back.
    pub fn update(&mut self, worker: usize, update: Update) -> Box<Update> {
        let mailbox = &mut self.handles[worker].mailbox;
        assert!(mailbox.send(Box::new(update)).is_ok(), "the mailbox is full");
        assert_eq!(self.workers[worker].turn(self.now), 0, "no packet waits");
        self.handles[worker].mailbox.reap().expect("adopted updates come back")
    }

    /// One packet through one worker, in a turn of its own.
    pub fn send(&mut self, worker: usize, packet: &[u8]) -> Verdict {
        let before = self.counts(worker);
        let sent = self.burst(worker, &[packet]);
        let after = self.counts(worker);
        if let Some(sent) = sent.first() {
            return Verdict::Forwarded(sent[..6].try_into().expect("six bytes"));
        }
        let raised = |&&reason: &&DropReason| {
            after.dropped[reason as usize] != before.dropped[reason as usize]
        };
        Verdict::Dropped(*DropReason::ALL.iter().find(raised).expect("dropped for a reason"))
    }

    /// At most a burst of packets through one worker in one turn; what left for real servers, in
    /// order. The ports' rings must be in order, which faults that a test plays itself may spoil.
    pub fn burst(&mut self, worker: usize, packets: &[&[u8]]) -> Vec<Vec<u8>> {
        self.burst_and_answers(worker, packets).0
    }

    /// The same, and the RSTs that left for clients, in order.
    pub fn burst_and_answers(
        &mut self,
        worker: usize,
        packets: &[&[u8]],
    ) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        assert!(packets.len() <= BURST_MAX);
        let before = self.counts(worker).resets;
        for packet in packets {
            assert!(self.workers[worker].port_mut().inject(packet), "no frame to receive into");
        }
        assert_eq!(self.workers[worker].turn(self.now), packets.len());
        let mut sent = self.workers[worker].port_mut().sent();
        let resets = (self.counts(worker).resets - before) as usize;
        let answers = sent.split_off(sent.len() - resets);
        let mut origins = packets.iter();
        for answer in &answers {
            let origin = origins.find(|packet| is_answered_by(packet, answer));
            check_reset(origin.expect("a packet that it answers"), answer);
        }
        let mut origins = packets.iter();
        for sent in &sent {
            assert_eq!(sent[6..12], DIRECTOR_MAC, "the source is the director");
            let origin = origins.find(|packet| packet.get(12..) == Some(&sent[12..]));
            assert!(origin.is_some(), "order is kept and only MAC addresses change");
        }
        self.check(worker);
        (sent, answers)
    }

    /// Many packets through one worker, in full bursts, with a check of the books at the end only.
    pub fn feed(&mut self, worker: usize, packets: impl IntoIterator<Item = Vec<u8>>) {
        let mut waiting = 0;
        for packet in packets {
            assert!(self.workers[worker].port_mut().inject(&packet), "no frame to receive into");
            waiting += 1;
            if waiting == BURST_MAX {
                self.workers[worker].turn(self.now);
                self.workers[worker].port_mut().sent();
                waiting = 0;
            }
        }
        self.workers[worker].turn(self.now);
        self.workers[worker].port_mut().sent();
        self.check(worker);
    }

    /// Lets time pass, in turns of a millisecond without packets.
    pub fn pass(&mut self, millis: Millis) {
        for _ in 0..millis {
            self.now += 1;
            self.turn_all();
        }
    }

    /// Lets time pass in steps of 16 s, in each of which the workers turn often enough to look at
    /// their whole tables.
    pub fn pass_long(&mut self, millis: Millis) {
        let end = self.now + millis;
        while self.now < end {
            self.now = end.min(self.now + 16_000);
            for _ in 0..8 {
                self.turn_all();
            }
        }
    }

    /// A turn of every worker.
    pub fn turn_all(&mut self) {
        for worker in &mut self.workers {
            worker.turn(self.now);
        }
    }

    /// What one worker counted.
    pub fn counts(&self, worker: usize) -> WorkerCounts {
        self.handles[worker].memory.counters().read()
    }

    /// How often one worker dropped for this reason.
    pub fn dropped(&self, worker: usize, reason: DropReason) -> u64 {
        self.counts(worker).dropped[reason as usize]
    }

    /// A server's connections on one worker, as counted.
    pub fn load(&self, worker: usize, server: ServerIndex) -> Load {
        self.handles[worker].memory.counters().load(server)
    }

    /// All flows of one worker.
    pub fn flows(&self, worker: usize) -> Vec<FlowRecord> {
        self.handles[worker].memory.flows(self.now).collect()
    }

    /// The flow of this client and protocol on one worker. There must not be two.
    pub fn flow(
        &self,
        worker: usize,
        client: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<FlowRecord> {
        let mut flows = self.flows(worker);
        flows.retain(|flow| {
            (flow.source, flow.source_port, flow.state.protocol()) == (client, port, protocol)
        });
        assert!(flows.len() < 2, "two flows of one client and port: {flows:?}");
        flows.pop()
    }

    /// Whether the books of one worker balance after a turn: frames, packets, flows, connections.
    pub fn check(&self, worker: usize) {
        let census = self.workers[worker].port().census();
        assert!(census.is_conserved() && census.held == 0, "{census:?}");
        let counts = self.counts(worker);
        assert_eq!(counts.received, counts.forwarded + counts.dropped.iter().sum::<u64>());

        let mut flows = 0;
        let mut recounted = vec![Load::default(); self.plan.next_server.into()];
        for flow in self.handles[worker].memory.flows(self.now) {
            flows += 1;
            let index = usize::from(flow.server.0);
            if index >= recounted.len() {
                recounted.resize(index + 1, Load::default());
            }
            let load = &mut recounted[index];
            *(if flow.state.is_active() { &mut load.active } else { &mut load.inactive }) += 1;
        }
        assert_eq!(counts.flows_v4 + counts.flows_v6, flows);
        let begun = counts.flows_created + counts.flows_adopted;
        let ended = counts.flows_expired + counts.flows_evicted + counts.flows_moved;
        assert_eq!(begun, ended + flows, "every flow begins and ends once");
        for (server, recounted) in (0..).map(ServerIndex).zip(recounted) {
            assert_eq!(self.load(worker, server), recounted, "{server:?}");
        }
    }
}
