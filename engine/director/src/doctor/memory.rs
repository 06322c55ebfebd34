//! Huge pages, memory that may be locked, and room for the flow tables.

use super::finding::{Area, Finding, Read, read_line};
use dataplane::Capacity;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// The size of the huge pages that frames and flow tables are put on, in bytes.
const HUGE_PAGE: u64 = 2 << 20;
const HUGE_FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// What one flow takes, in bytes (config/director.toml).
const FLOW_V4: u64 = 32;
const FLOW_V6: u64 = 64;

/// What was read of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryFacts {
    /// Bytes that this process may lock; `None`: any number.
    pub lock_limit: Read<Option<u64>>,
    /// Huge pages of 2 MiB that nobody has yet.
    pub huge_free: Read<u64>,
    /// Whether the kernel gives transparent huge pages to those who ask.
    pub transparent: Read<bool>,
    /// Bytes that could be had without swapping (MemAvailable).
    pub available: Read<u64>,
}

impl MemoryFacts {
    /// Looks. `may_lock`: the limit does not apply (CAP_IPC_LOCK).
    pub fn read(may_lock: bool) -> MemoryFacts {
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map(|(soft, _)| soft);
        let number = |text: String| text.parse().map_err(|_| format!("{text:?} is no number"));
        MemoryFacts {
            lock_limit: match limit {
                _ if may_lock => Ok(None),
                Ok(RLIM_INFINITY) => Ok(None),
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) => Err(error.to_string()),
            },
            huge_free: read_line(&format!("{HUGE_FOLDER}/free_hugepages")).and_then(number),
            transparent: read_line(TRANSPARENT).map(|text| !text.contains("[never]")),
            available: read_available(),
        }
    }
}

fn read_available() -> Read<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib << 10)
        .ok_or_else(|| format!("{path} has no MemAvailable"))
}

/// What a start will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Workers, one a queue.
    pub workers: u64,
    /// Bytes of one worker's frames.
    pub frames: u64,
    /// Flows that each worker can remember.
    pub capacity: Capacity,
}

impl Demand {
    fn tables(&self) -> u64 {
        self.capacity.flows_v4 as u64 * FLOW_V4 + self.capacity.flows_v6 as u64 * FLOW_V6
    }

    fn bytes(&self) -> u64 {
        self.workers * (self.frames + self.tables())
    }

    /// Each worker has its frames and two tables, each on whole pages with a little beside.
    fn huge_pages(&self) -> u64 {
        let pages = |bytes: u64| bytes.div_ceil(HUGE_PAGE) + 1;
        let v4 = self.capacity.flows_v4 as u64 * FLOW_V4;
        self.workers * (pages(self.frames) + pages(v4) + pages(self.tables() - v4))
    }
}

/// What the running director says of its queues' frames: how many are on huge pages, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnHugePages {
    /// Queues whose frames are on huge pages that were reserved.
    pub huge: usize,
    /// Queues.
    pub queues: usize,
}

/// What follows from it.
pub fn findings(
    facts: &MemoryFacts,
    demand: &Demand,
    running: Option<OnHugePages>,
) -> Vec<Finding> {
    let mut findings = vec![huge_pages(facts, demand, running)];
    // A director that runs has what it needs.
    if running.is_none() {
        findings.push(locked(facts, demand));
        findings.push(room(facts, demand));
    }
    findings
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn huge_pages(facts: &MemoryFacts, demand: &Demand, running: Option<OnHugePages>) -> Finding {
    const SUBJECT: &str = "huge pages";
    let wanted = demand.huge_pages();
    match (running, &facts.huge_free) {
        (Some(OnHugePages { huge, queues }), _) if huge == queues => {
            return Finding::ok(Area::Memory, SUBJECT, "all frames are on reserved huge pages");
        }
        (None, Ok(free)) if *free >= wanted => {
            let sentence = format!("{free} of 2 MiB are free, {wanted} are wanted");
            return Finding::ok(Area::Memory, SUBJECT, sentence);
        }
        (None, Err(why)) => return Finding::unread(Area::Memory, SUBJECT, "their number", why),
        _ => {}
    }
    let without = match running {
        Some(OnHugePages { huge, queues }) => {
            format!("the frames of {} of {queues} queues are on ordinary pages", queues - huge)
        }
        None => {
            let free = facts.huge_free.as_ref().map_or(0, |free| *free);
            format!("{free} of 2 MiB are free, {wanted} would hold all frames and flow tables")
        }
    };
    match &facts.transparent {
        Ok(true) => {
            let sentence = format!("{without}; transparent ones are asked for instead");
            Finding::ok(Area::Memory, SUBJECT, sentence)
        }
        Ok(false) => {
            let sentence = format!("{without}, and transparent ones are switched off");
            Finding::warning(Area::Memory, SUBJECT, sentence)
                .mended_by(format!("sysctl -w vm.nr_hugepages={wanted}, then start shunt anew"))
        }
        Err(why) => Finding::unread(
            Area::Memory,
            SUBJECT,
            &format!("{without}; whether there are transparent ones"),
            why,
        ),
    }
}

fn locked(facts: &MemoryFacts, demand: &Demand) -> Finding {
    const SUBJECT: &str = "memlock";
    let needed = demand.workers * demand.frames;
    match &facts.lock_limit {
        Ok(None) => Finding::ok(Area::Memory, SUBJECT, "memory may be locked without a limit"),
        Ok(Some(limit)) if *limit >= needed => {
            let sentence = format!("{} may be locked, {} will be", mib(*limit), mib(needed));
            Finding::ok(Area::Memory, SUBJECT, sentence)
        }
        Ok(Some(limit)) => {
            let sentence = format!(
                "{} may be locked, and the frames are {}: the kernel will refuse them",
                mib(*limit),
                mib(needed)
            );
            Finding::problem(Area::Memory, SUBJECT, sentence).mended_by(
                "ulimit -l unlimited, LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK",
            )
        }
        Err(why) => Finding::unread(Area::Memory, SUBJECT, "its limit", why),
    }
}

fn room(facts: &MemoryFacts, demand: &Demand) -> Finding {
    const SUBJECT: &str = "flow tables";
    let wanted = demand.bytes();
    match &facts.available {
        Ok(available) if *available >= wanted => {
            let sentence = format!(
                "frames and flow tables may grow to {}, {} are available",
                mib(wanted),
                mib(*available)
            );
            Finding::ok(Area::Memory, SUBJECT, sentence)
        }
        Ok(available) => {
            let sentence = format!(
                "frames and flow tables may grow to {}, and {} are available",
                mib(wanted),
                mib(*available)
            );
            Finding::problem(Area::Memory, SUBJECT, sentence)
                .mended_by("lower flows and flows_v6 in the config")
        }
        Err(why) => Finding::unread(Area::Memory, SUBJECT, "available memory", why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    const DEMAND: Demand = Demand {
        workers: 2,
        frames: 16 << 20,
        capacity: Capacity { flows_v4: 1 << 20, flows_v6: 1 << 18 },
    };

    fn facts() -> MemoryFacts {
        MemoryFacts {
            lock_limit: Ok(None),
            huge_free: Ok(1_000),
            transparent: Ok(true),
            available: Ok(1 << 30),
        }
    }

    #[test]
    fn huge_pages_are_counted_for_every_worker() {
        // 8 + 1, 16 + 1 and 8 + 1 pages.
        assert_eq!(DEMAND.huge_pages(), 2 * 35);
        assert_eq!(huge_pages(&facts(), &DEMAND, None).state, State::Ok);
        let few = MemoryFacts { huge_free: Ok(69), ..facts() };
        assert!(huge_pages(&few, &DEMAND, None).sentence.contains("transparent"));
        let none = MemoryFacts { transparent: Ok(false), ..few };
        let finding = huge_pages(&none, &DEMAND, None);
        assert_eq!(finding.state, State::Warning);
        assert!(finding.remedy.unwrap().contains("vm.nr_hugepages=70"));
    }

    #[test]
    fn a_running_director_says_what_it_has() {
        let none_free = MemoryFacts { huge_free: Ok(0), transparent: Ok(false), ..facts() };
        let on = |huge| huge_pages(&none_free, &DEMAND, Some(OnHugePages { huge, queues: 2 }));
        assert_eq!(on(2).state, State::Ok);
        assert_eq!(on(1).state, State::Warning);
        assert!(on(1).sentence.contains("1 of 2 queues"));
        let running = findings(&none_free, &DEMAND, Some(OnHugePages { huge: 2, queues: 2 }));
        assert_eq!(running.len(), 1, "{running:?}");
    }

    #[test]
    fn a_limit_below_the_frames_is_a_problem() {
        let with = |limit| locked(&MemoryFacts { lock_limit: limit, ..facts() }, &DEMAND);
        assert_eq!(with(Ok(None)).state, State::Ok);
        assert_eq!(with(Ok(Some(32 << 20))).state, State::Ok);
        assert_eq!(with(Ok(Some(8 << 20))).state, State::Problem);
        assert_eq!(with(Err("no".into())).state, State::Warning);
    }

    #[test]
    fn tables_beyond_the_memory_are_a_problem() {
        let with = |available| room(&MemoryFacts { available, ..facts() }, &DEMAND).state;
        assert_eq!(with(Ok(1 << 30)), State::Ok);
        assert_eq!(with(Ok(64 << 20)), State::Problem);
        assert_eq!(with(Err("no".into())), State::Warning);
    }

    #[test]
    fn what_cannot_be_read_is_no_ok() {
        let unread = MemoryFacts {
            lock_limit: Err("no".into()),
            huge_free: Err("no".into()),
            transparent: Err("no".into()),
            available: Err("no".into()),
        };
        for finding in findings(&unread, &DEMAND, None) {
            assert_eq!(finding.state, State::Warning, "{finding:?}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let facts = MemoryFacts::read(true);
        assert_eq!(facts.lock_limit, Ok(None));
        assert!(facts.available.unwrap() > 0);
    }
}
