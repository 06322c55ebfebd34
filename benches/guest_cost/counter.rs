//! Reads what count.c, the plugin in QEMU, has counted.

use anyhow::{Context, Result, ensure};
use lab::{TempDir, run};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the plugin may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The plugin, compiled, and the place of its socket.
pub struct Plugin {
    library: PathBuf,
    socket: PathBuf,
    _files: TempDir,
}

impl Plugin {
    /// Compiles it, by the compiler that links Rust's programs too.
    pub fn compile() -> Result<Plugin> {
        let files = TempDir::create("guest-cost")?;
        let library = files.path().join("libcount.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/guest_cost/count.c");
        run(Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source))?;
        Ok(Plugin { library, socket: files.path().join("count"), _files: files })
    }

    /// QEMU's argument for it.
    pub fn argument(&self) -> String {
        format!("{},socket={}", self.library.display(), self.socket.display())
    }

    /// Connects to it. The guest must run.
    pub fn connect(&self) -> Result<Counter> {
        let stream = UnixStream::connect(&self.socket).context("connecting to the plugin")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Counter { answers: BufReader::new(stream.try_clone()?), questions: stream })
    }
}

/// The line to the plugin.
pub struct Counter {
    questions: UnixStream,
    answers: BufReader<UnixStream>,
}

/// What one of the guest's CPUs has executed: the numbers of count.c, in their order.
struct Counts {
    kernel: u64,
    user: u64,
    worked: u64,
    work_turns: u64,
    empty_turn: u64,
}

/// What the guest has executed in some time.
pub struct Window {
    before: Vec<Counts>,
    after: Vec<Counts>,
    pub seconds: f64,
}

impl Window {
    /// For each CPU how long an empty turn of the loop on it is, if nothing came in this time;
    /// 0 for a CPU on which nobody waits in a loop.
    pub fn empty_turns(&self) -> Vec<u64> {
        self.after.iter().map(|cpu| cpu.empty_turn).collect()
    }

    /// Instructions of the kernel, on all CPUs.
    pub fn kernel(&self) -> f64 {
        self.cpus().map(|(before, after)| (after.kernel - before.kernel) as f64).sum()
    }

    /// Instructions of programs, on all CPUs, without those of turns that waited.
    pub fn user(&self, empty_turns: &[u64]) -> f64 {
        let cpus = self.cpus().zip(empty_turns);
        cpus.map(|((before, after), &empty_turn)| match empty_turn {
            0 => (after.user - before.user) as f64,
            _ => {
                let waited = (after.work_turns - before.work_turns) * empty_turn;
                (after.worked - before.worked) as f64 - waited as f64
            }
        })
        .sum()
    }

    fn cpus(&self) -> impl Iterator<Item = (&Counts, &Counts)> {
        self.before.iter().zip(&self.after)
    }
}

impl Counter {
    fn read(&mut self) -> Result<Vec<Counts>> {
        self.questions.write_all(b"?")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the plugin does not answer")?;
        let numbers: Vec<u64> =
            line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let (cpus, rest) = numbers.as_chunks();
        ensure!(rest.is_empty() && !cpus.is_empty(), "the plugin's answer is {line:?}");
        Ok(cpus
            .iter()
            .map(|&[kernel, user, worked, work_turns, empty_turn]| Counts {
                kernel,
                user,
                worked,
                work_turns,
                empty_turn,
            })
            .collect())
    }

    /// What is executed while `work` lasts.
    pub fn during(&mut self, work: impl FnOnce() -> Result<()>) -> Result<Window> {
        let (before, begun) = (self.read()?, Instant::now());
        work()?;
        Ok(Window { before, after: self.read()?, seconds: begun.elapsed().as_secs_f64() })
    }
}
