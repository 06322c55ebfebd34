//! What a guest is made of, and its start.

use crate::console::Console;
use crate::image::Image;
use crate::modules::Modules;
use crate::packages::{self, Packages};
use crate::running::Guest;
use crate::wire::{TAP, Wire};
use lab::{Doing, Netns, Process, Result, TempDir, run};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The MAC address of the guest's NIC.
pub const NIC_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// The MAC address of whoever is at the other end.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// How long the guest may take until its shell listens. 5 s on an idle machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long QEMU may take to connect its sockets.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// A kernel. The versions are pinned in `tests/guest/fetch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Linux 6.18 for cloud machines: virtio_net, with zero-copy.
    Cloud618,
    /// Linux 6.18 with all drivers: igb too, with zero-copy.
    Full618,
    /// Linux 6.12 for cloud machines: no zero-copy in virtio_net.
    Cloud612,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Kernel::Cloud618 => "cloud-6.18",
            Kernel::Full618 => "full-6.18",
            Kernel::Cloud612 => "cloud-6.12",
        }
    }
}

/// The guest's NIC, which it knows as `eth0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// virtio-net.
    Virtio {
        /// Its receive queues, and as many transmit queues. The guest turns them on by itself as
        /// far as it has cores.
        queues: u32,
        /// Whether its addresses go through the guest's DMA layer (VIRTIO_F_ACCESS_PLATFORM).
        /// Without that its driver refuses zero-copy.
        iommu_platform: bool,
    },
    /// Intel's 82576, which has a queue for each of the guest's cores, up to 8.
    Igb,
}

impl Nic {
    /// virtio-net with one queue, fit for zero-copy.
    pub fn virtio() -> Nic {
        Nic::Virtio { queues: 1, iommu_platform: true }
    }

    /// QEMU's words for it. Its other end is called `wire`.
    fn device(self) -> String {
        // Nobody boots from it.
        let common = format!("id=nic,netdev=wire,mac={},romfile=", lab::mac_text(NIC_MAC));
        match self {
            Nic::Virtio { queues, iommu_platform } => {
                let iommu = if iommu_platform { "on" } else { "off" };
                let several = match queues {
                    1 => String::new(),
                    // An interrupt for each queue, one for the configuration, one for control.
                    _ => format!(",mq=on,vectors={}", 2 * queues + 2),
                };
                format!("virtio-net-pci,{common},disable-legacy=on,iommu_platform={iommu}{several}")
            }
            Nic::Igb => format!("igb,{common}"),
        }
    }

    fn module(self) -> &'static str {
        match self {
            Nic::Virtio { .. } => "virtio_net",
            Nic::Igb => "igb",
        }
    }

    /// Of a stream QEMU makes one queue only.
    fn tap_queues(self) -> Option<u32> {
        match self {
            Nic::Virtio { queues, .. } if queues > 1 => Some(queues),
            _ => None,
        }
    }
}

/// A guest that has not been booted.
#[derive(Debug)]
pub struct Machine {
    kernel: Kernel,
    nic: Option<Nic>,
    cores: u32,
    memory: u32,
    modules: Vec<String>,
    programs: Vec<(PathBuf, String)>,
    fetched: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    arguments: Vec<String>,
}

impl Machine {
    /// Two cores, 1 GiB, no NIC; `ip` and busybox's commands.
    pub fn new(kernel: Kernel) -> Machine {
        Machine {
            kernel,
            nic: None,
            cores: 2,
            memory: 1024,
            modules: Vec::new(),
            programs: Vec::new(),
            fetched: Vec::new(),
            files: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Gives it a NIC, with its driver.
    pub fn nic(mut self, nic: Nic) -> Machine {
        self.nic = Some(nic);
        self.module(nic.module())
    }

    /// How many cores it has.
    pub fn cores(mut self, cores: u32) -> Machine {
        self.cores = cores;
        self
    }

    /// How much memory it has, in MiB, file system included.
    pub fn memory(mut self, mebibytes: u32) -> Machine {
        self.memory = mebibytes;
        self
    }

    /// Loads a kernel module, and those that it depends on.
    pub fn module(mut self, name: &str) -> Machine {
        self.modules.push(name.to_owned());
        self
    }

    /// Puts a program of this machine, with its libraries, at `path` in the guest.
    pub fn program(mut self, from: impl Into<PathBuf>, path: &str) -> Machine {
        self.programs.push((from.into(), path.to_owned()));
        self
    }

    /// Puts a program in the guest that this machine need not have: one that
    /// `tests/guest/fetch` knows.
    pub fn fetched_program(mut self, name: &str) -> Machine {
        self.fetched.push(name.to_owned());
        self
    }

    /// Puts a file at `path` in the guest; it may be executed.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Machine {
        self.files.push((path.to_owned(), content.into()));
        self
    }

    /// Gives QEMU further arguments.
    pub fn qemu(mut self, arguments: &[&str]) -> Machine {
        self.arguments.extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    /// Boots it and waits until its shell listens. The first time, what it needs is fetched.
    pub fn boot(self) -> Result<Guest> {
        let packages = Packages::fetch(self.kernel.name())?;
        let files = TempDir::create("guest")?;
        let image = files.write("image.cpio", self.image(&packages)?)?;
        let log = files.write("serial.log", "")?;
        let listen = |name: &str| {
            let path = files.path().join(name);
            let listener = UnixListener::bind(&path).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.doing(|| format!("listening at {}", path.display())).map(|l| (l, path))
        };
        let (console, console_path) = listen("console")?;
        let (monitor, monitor_path) = listen("monitor")?;
        let (stream, stream_path) = listen("wire")?;

        let mut arguments = packages.qemu();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        add(&["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-nodefaults"]);
        add(&["-no-user-config", "-display", "none", "-no-reboot"]);
        add(&["-smp", &self.cores.to_string(), "-m", &self.memory.to_string()]);
        add(&["-serial", &format!("file:{}", log.display())]);
        add(&["-serial", &format!("unix:{}", console_path.display())]);
        add(&["-monitor", &format!("unix:{}", monitor_path.display())]);
        add(&["-kernel", &packages.kernel()?.display().to_string()]);
        add(&["-initrd", &image.display().to_string()]);
        add(&["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off"]);
        let tap = self.nic.and_then(Nic::tap_queues).map(tap).transpose()?;
        if let Some(nic) = self.nic {
            add(&["-device", &nic.device(), "-netdev"]);
            add(&[&match nic.tap_queues() {
                Some(queues) => format!(
                    "tap,id=wire,ifname={TAP},queues={queues},script=no,downscript=no,vhost=off"
                ),
                None => format!(
                    "stream,id=wire,server=off,addr.type=unix,addr.path={}",
                    stream_path.display()
                ),
            }]);
        }
        arguments.extend(self.arguments);
        let mut command = match &tap {
            Some(netns) => netns.command(&arguments[0]),
            None => Command::new(&arguments[0]),
        };
        command.args(&arguments[1..]);
        let process = Process::start(command)?;

        let connected = |listener: &UnixListener| {
            let mut accepted = None;
            process.wait_until(CONNECT_PATIENCE, "QEMU connects", || {
                accepted = accepted.take().or_else(|| listener.accept().ok());
                accepted.is_some()
            })?;
            let (stream, _) = accepted.expect("it was waited for");
            stream.set_nonblocking(false).doing(|| "setting up a socket".into())?;
            Ok(stream)
        };
        let console = connected(&console)?;
        let monitor = connected(&monitor)?;
        let wire = match (self.nic, tap) {
            (None, _) => Wire::none(),
            (_, Some(netns)) => Wire::tap(netns)?,
            _ => Wire::stream(connected(&stream)?)?,
        };
        let alive = || Guest::alive(&process, &log);
        let console = Console::open(console, BOOT_PATIENCE, alive)?;
        Ok(Guest::new(process, wire, console, monitor, log, files))
    }

    fn image(&self, packages: &Packages) -> Result<Vec<u8>> {
        let mut image = Image::new();
        image.add_copy(&packages::folder().join("init"), "/init")?;
        image.add_copy(&packages.busybox(), "/bin/busybox")?;
        let ip = run(Command::new("sh").args(["-c", "command -v ip"]))?;
        image.add_program(Path::new(ip.trim()), "/sbin/ip")?;
        let mut modules = Modules::of(&packages.modules()?)?;
        for module in &self.modules {
            modules.load(module)?;
        }
        let mut order = String::new();
        for (name, bytes) in &modules.loaded {
            image.add(&format!("/modules/{name}.ko"), bytes);
            order += &format!("{name}\n");
        }
        image.add("/modules/order", order.as_bytes());
        for (from, path) in &self.programs {
            image.add_program(from, path)?;
        }
        for name in &self.fetched {
            image.add_fetched(&packages::fetch_program(name)?, name)?;
        }
        for (path, content) in &self.files {
            image.add(path, content);
        }
        Ok(image.finish())
    }
}

/// A namespace with a tap of several queues.
fn tap(queues: u32) -> Result<Netns> {
    let netns = Netns::create("guest")?;
    // Nothing that nobody asked for is to come from this end.
    netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let several = if queues > 1 { " multi_queue" } else { "" };
    netns.ip(&format!("tuntap add dev {TAP} mode tap{several}"))?;
    netns.ip(&format!("link set dev {TAP} address {} up", lab::mac_text(HOST_MAC)))?;
    Ok(netns)
}
