//! Both ends of the bench in the kernel: what offers frames, and what counts those that return.

use crate::link::Link;
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use core_affinity::CoreId;
use std::thread;
use std::time::{Duration, Instant};

/// Where the generator runs; the forwarder has the other core.
pub const GENERATOR_CORE: usize = 0;
pub const FORWARDER_CORE: usize = 1;

/// `SERVERS` in wire.bpf.c, and the two other places that a frame may come back for.
pub const SERVERS: usize = 16;
const DESTINATIONS: usize = SERVERS + 2;
const BUCKETS_BITS: u32 = 4;
const BUCKETS: u32 = 64 << BUCKETS_BITS;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
/// Bytes of the Ethernet, IPv4 and TCP headers.
const HEADERS: usize = 54;

/// A run of the kernel's frames that is taken together: their cost is spread over it, and they
/// leave together. As many as a NIC's interrupt brings; when latency counts, a frame at a time.
const FRAMES_TOGETHER: u32 = 64;
/// How long nothing may come back until the last frame is taken to be the last.
const QUIET: Duration = Duration::from_millis(20);
const QUIET_PATIENCE: Duration = Duration::from_secs(2);

/// `struct order` in wire.bpf.c.
type Order = [u64; 9];
const SENT: usize = 8;

/// What to offer.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// The first flow and how many.
    pub flows: (u64, u64),
    /// Flow after flow, and not all over the place.
    pub in_order: bool,
    /// TCP flags.
    pub flags: u8,
    /// Bytes of a frame, from the Ethernet header on, without its checksum.
    pub length: usize,
    /// Frames a second; as many as can be when it is none.
    pub rate: Option<f64>,
    /// How many.
    pub frames: u32,
    /// Whether their latency is wanted.
    pub timed: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Frames offered, all told.
    pub sent: u64,
    /// Frames a second that were offered and that came back, in the same stretch in the middle of
    /// the run.
    pub offered: f64,
    pub forwarded: f64,
    /// Whether that stretch was long enough: on a busy machine whoever watches may come too late.
    pub watched: bool,
    /// Frames that came back, by destination: the real servers, who made them, others.
    pub arrived: [u64; DESTINATIONS],
}

impl Outcome {
    /// Frames that came back to one of the places where they should.
    pub fn returned(&self) -> u64 {
        self.arrived[..=SERVERS].iter().sum()
    }

    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.returned())
    }
}

/// The programs at the generator's end of the link.
pub struct Programs {
    ebpf: Ebpf,
    orders: Array<MapData, Order>,
    arrived: PerCpuArray<MapData, u64>,
    latencies: PerCpuArray<MapData, u64>,
    interface: u32,
}

impl Programs {
    /// Loads them and attaches the sink.
    pub fn load(link: &Link) -> Result<Programs> {
        let mut ebpf = EbpfLoader::new()
            .load(aya::include_bytes_aligned!("wire.bpf.o"))
            .context("loading wire.bpf.o")?;
        let mut map = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let orders = map("orders")?.try_into()?;
        let arrived = map("arrived")?.try_into()?;
        let latencies = map("latencies")?.try_into()?;
        for name in ["offer", "sink"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let interface = link.generator_index()?;
        let sink = program(&mut ebpf, "sink")?;
        link.generator
            .run(|| sink.attach_to_if_index(interface, XdpMode::Driver))?
            .context("attaching the sink")?;
        Ok(Programs { ebpf, orders, arrived, latencies, interface })
    }

    /// Offers frames and counts what comes back.
    pub fn run(&mut self, link: &Link, offer: &Offer) -> Result<Outcome> {
        let before = self.arrived()?;
        self.orders.set(0, order(offer), 0)?;
        let (sender, interface) = (offerer(&self.ebpf)?, self.interface);
        let this = &*self;
        let (offered, forwarded, watched) = thread::scope(|scope| -> Result<(f64, f64, bool)> {
            let running = scope.spawn(|| link.generator.run(|| send(sender, interface, offer)));
            let middle = this.watch(offer, || running.is_finished());
            running.join().expect("the generator does not panic")??;
            middle
        })?;
        self.wait_until_quiet()?;
        let after = self.arrived()?;
        let order = self.orders.get(&0, 0)?;
        let arrived = std::array::from_fn(|place| after[place] - before[place]);
        let outcome = Outcome { sent: order[SENT], offered, forwarded, watched, arrived };
        ensure!(outcome.arrived[DESTINATIONS - 1] == 0, "frames came back to a strange address");
        Ok(outcome)
    }

    /// The rates of offering and returning between a third and nine tenths of the run, so that
    /// neither its start nor what is still in rings at its end counts.
    fn watch(&self, offer: &Offer, finished: impl Fn() -> bool) -> Result<(f64, f64, bool)> {
        let sent = || Ok::<_, anyhow::Error>(self.orders.get(&0, 0)?[SENT]);
        let reach = |share: f64| -> Result<(u64, u64, Instant)> {
            while (sent()? as f64) < share * f64::from(offer.frames) && !finished() {
                thread::sleep(Duration::from_micros(500));
            }
            Ok((sent()?, self.arrived()?.iter().sum(), Instant::now()))
        };
        let (sent_before, back_before, start) = reach(0.33)?;
        let (sent_after, back_after, end) = reach(0.9)?;
        let seconds = end.duration_since(start).as_secs_f64();
        Ok((
            (sent_after - sent_before) as f64 / seconds,
            (back_after - back_before) as f64 / seconds,
            sent_after - sent_before > u64::from(offer.frames) / 4,
        ))
    }

    /// Latencies since the last call: counts by bucket.
    pub fn latencies(&mut self) -> Result<Latencies> {
        let mut counts = Vec::new();
        for bucket in 0..BUCKETS {
            let values = self.latencies.get(&bucket, 0)?;
            counts.push(values.iter().sum());
            let zeros = vec![0; values.len()];
            self.latencies.set(bucket, aya::maps::PerCpuValues::try_from(zeros)?, 0)?;
        }
        Ok(Latencies { counts })
    }

    fn arrived(&self) -> Result<[u64; DESTINATIONS]> {
        let mut arrived = [0; DESTINATIONS];
        for (place, count) in (0..).zip(&mut arrived) {
            *count = self.arrived.get(&place, 0)?.iter().sum();
        }
        Ok(arrived)
    }

    fn wait_until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + QUIET_PATIENCE;
        let mut last = self.arrived()?;
        while Instant::now() < deadline {
            thread::sleep(QUIET);
            let now = self.arrived()?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(())
    }
}

/// The contender that lives in the kernel, attached while this value lives.
pub struct KernelSwap {
    _ebpf: Ebpf,
}

impl KernelSwap {
    pub fn attach(link: &Link) -> Result<KernelSwap> {
        let mut ebpf = EbpfLoader::new().load(aya::include_bytes_aligned!("wire.bpf.o"))?;
        let interface = link.director_index()?;
        let swap = program(&mut ebpf, "swap")?;
        swap.load()?;
        link.director
            .run(|| swap.attach_to_if_index(interface, XdpMode::Driver))?
            .context("attaching the MAC swap")?;
        Ok(KernelSwap { _ebpf: ebpf })
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn offerer(ebpf: &Ebpf) -> Result<&Xdp> {
    Ok(ebpf.program("offer").context("no program offer")?.try_into()?)
}

fn order(offer: &Offer) -> Order {
    let (first, flows) = offer.flows;
    // Any number near the golden section spreads; one without a common divisor meets every flow.
    let stride = if offer.in_order { 1 } else { coprime(flows, (flows as f64 * 0.618) as u64) };
    let interval = offer.rate.map_or(0, |rate| (256e9 / rate) as u64);
    let timed = u64::from(offer.timed);
    [first, flows, stride, offer.flags.into(), interval, timed, 0, 0, 0]
}

fn coprime(number: u64, near: u64) -> u64 {
    let divisor = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (near.max(1)..).find(|&stride| divisor(number, stride) == 1).expect("a prime, at the latest")
}

/// Runs `offer` in the kernel, a million frames a call: what a call sets up and tears down costs as
/// much as many thousand frames.
fn send(program: &Xdp, interface: u32, offer: &Offer) -> Result<()> {
    ensure!(core_affinity::set_for_current(CoreId { id: GENERATOR_CORE }), "pinning the generator");
    let frame = template(offer.length);
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
    let together = if offer.timed { 1 } else { FRAMES_TOGETHER };
    let mut left = offer.frames;
    while left > 0 {
        let repeat = left.min(1_000_000);
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(together),
            ..TestRunOptions::default()
        };
        program.test_run(options).context("BPF_PROG_TEST_RUN (Linux 5.18 or later)")?;
        left -= repeat;
    }
    Ok(())
}

/// A TCP packet for the virtual service. What differs from frame to frame is written by `offer`;
/// checksums are none, because nobody on this link looks at them.
fn template(length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[12..14].copy_from_slice(&[8, 0]);
    // The padding of the shortest frame is not part of the packet.
    let total = (if length == crate::SHORTEST { HEADERS } else { length } - 14) as u16;
    frame[14..23].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64]);
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[23] = 6;
    frame[30..34].copy_from_slice(&crate::link::VIP.octets());
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    frame[46] = 0x50;
    frame
}

/// Latencies of frames, counted by their size.
pub struct Latencies {
    counts: Vec<u64>,
}

impl Latencies {
    /// The latency in microseconds that this share of the frames does not exceed; NaN if there
    /// were none. 6% at most above the truth.
    pub fn percentile(&self, share: f64) -> f64 {
        let all: u64 = self.counts.iter().sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return upper_bound(bucket as u64) as f64 / 1000.0;
            }
        }
        f64::NAN
    }
}

/// The largest ns that `note_latency` in wire.bpf.c puts into this bucket.
fn upper_bound(bucket: u64) -> u64 {
    let step = 1 << BUCKETS_BITS;
    let shift = (bucket / step).saturating_sub(1);
    ((bucket - shift * step + 1) << shift) - 1
}
