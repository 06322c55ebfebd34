//! The least that a forwarder on AF_XDP does: takes the packets for a VIP and port on every queue
//! of an interface, rewrites the two MAC addresses and sends them back out. No table, no decision.
//! It is the floor that benches hold `shunt` against, with the same rings and in the same order.
//!
//! `mac_swap INTERFACE VIP:PORT [--to MAC] [--mode auto|zero-copy|copy] [--poll busy|adaptive]
//! [--seconds N]`
//!
//! Without `--to` a packet goes back to whom it came from. One thread serves each queue; `taskset`
//! says where. A line that begins with `ready` says that packets are taken; SIGTERM, SIGINT or the
//! end of the seconds end it, and then a line for each queue says what came and went.

use anyhow::{Context, Result, bail};
use nix::unistd::alarm;
use signal_hook::consts::{SIGALRM, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::hint::spin_loop;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use xsk::{BURST_MAX, InterfaceOptions, ModeRequest, Packet, Port, SteerKey, XskPort};

/// As in the director's loop (engine/director/src/worker_thread.rs).
const EMPTY_TURNS_BEFORE_SLEEP: u32 = 1_000;
const SLEEP: Duration = Duration::from_millis(10);

struct Options {
    interface: InterfaceOptions,
    service: SocketAddr,
    /// Where every packet goes; else back.
    to: Option<[u8; 6]>,
    busy: bool,
    seconds: Option<u32>,
}

#[derive(Default)]
struct Counts {
    received: u64,
    sent: u64,
    dropped: u64,
}

fn main() -> Result<()> {
    let options = options()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGALRM])?;
    let mut interface = xsk::open(&options.interface)?;
    let (address, port) = (options.service.ip(), options.service.port());
    interface.steer.set_services(&[6, 17].map(|protocol| SteerKey { address, port, protocol }))?;
    let attached = interface.steer.attach()?;
    let (stop, ports) = (AtomicBool::new(false), &mut interface.ports);
    std::thread::scope(|scope| {
        let run = |port| forward_until_stopped(port, &options, &stop);
        let threads: Vec<_> = ports.iter_mut().map(|port| scope.spawn(move || run(port))).collect();
        for monitor in &interface.monitors {
            let (queue, mode) = (monitor.queue(), monitor.mode().name());
            println!("ready: queue {queue}, {mode}, XDP {}", attached.name());
        }
        options.seconds.map(alarm::set);
        signals.forever().next();
        stop.store(true, Relaxed);
        for (thread, monitor) in threads.into_iter().zip(&interface.monitors) {
            monitor.waker().wake();
            let Ok(Counts { received, sent, dropped }) = thread.join() else {
                bail!("the thread of queue {} has panicked", monitor.queue());
            };
            let queue = monitor.queue();
            println!("queue {queue}: received {received}, sent {sent}, dropped {dropped}");
        }
        Ok(())
    })
}

fn forward_until_stopped(port: &mut XskPort, options: &Options, stop: &AtomicBool) -> Counts {
    let mut counts = Counts::default();
    let mut burst = Vec::with_capacity(BURST_MAX);
    let mut empty_turns = 0;
    while !stop.load(Relaxed) {
        if turn(port, &mut burst, options.to, &mut counts) > 0 {
            empty_turns = 0;
        } else if options.busy || empty_turns < EMPTY_TURNS_BEFORE_SLEEP {
            empty_turns += u32::from(empty_turns < EMPTY_TURNS_BEFORE_SLEEP);
            spin_loop();
        } else {
            port.wait(SLEEP);
        }
    }
    counts
}

fn turn(
    port: &mut XskPort,
    burst: &mut Vec<Packet>,
    to: Option<[u8; 6]>,
    counts: &mut Counts,
) -> usize {
    port.reclaim();
    let received = port.receive(burst);
    let mac = port.mac();
    counts.received += received as u64;
    for packet in burst.iter() {
        if let Some((addresses, _)) = port.bytes_mut(packet).split_first_chunk_mut::<12>() {
            let [destination, source] = addresses.as_chunks_mut::<6>().0 else { unreachable!() };
            *destination = to.unwrap_or(*source);
            *source = mac;
        }
    }
    counts.sent += port.send(burst) as u64;
    counts.dropped += burst.len() as u64;
    burst.drain(..).for_each(|packet| port.release(packet));
    port.flush();
    port.refill();
    received
}

fn options() -> Result<Options> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().with_context(|| format!("{what} is missing"));
    let interface = InterfaceOptions::new(next("the interface")?);
    let service = next("VIP:PORT")?.parse().context("VIP:PORT")?;
    let mut options = Options { interface, service, to: None, busy: false, seconds: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match (&*name, &*value) {
            ("--to", mac) => options.to = Some(parse_mac(mac)?),
            ("--mode", "auto") => options.interface.mode = ModeRequest::Auto,
            ("--mode", "zero-copy") => options.interface.mode = ModeRequest::ZeroCopy,
            ("--mode", "copy") => options.interface.mode = ModeRequest::Copy,
            ("--poll", "busy") => options.busy = true,
            ("--poll", "adaptive") => options.busy = false,
            ("--seconds", seconds) => options.seconds = Some(seconds.parse().context("--seconds")?),
            _ => bail!("{name} {value} is not understood; the head of mac_swap.rs says what is"),
        }
    }
    Ok(options)
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().context("a MAC address")?;
    bytes.try_into().ok().context("a MAC address has six bytes")
}
