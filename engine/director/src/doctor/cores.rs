//! The workers' cores: whether there are enough, whose they are besides, and how fast.

use super::finding::{Area, Finding, Read, list, read_if_any, read_line, read_list};
use super::nic::Interrupt;
use std::collections::BTreeMap;
use std::path::Path;

const FOLDER: &str = "/sys/devices/system/cpu";

/// What was read of one core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Its NUMA position, where the kernel knows of such.
    pub numa: Read<Option<usize>>,
    /// Its frequency's governor; nothing: the kernel does not set its frequency.
    pub governor: Read<Option<String>>,
    /// The hardware threads of the same core, itself included.
    pub siblings: Read<Vec<usize>>,
}

/// What was read of the cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreFacts {
    /// Those that this process may use.
    pub available: Vec<usize>,
    /// Those that the kernel schedules nothing on by itself (isolcpus).
    pub isolated: Read<Vec<usize>>,
    /// Whether irqbalance runs.
    pub irqbalance: bool,
    /// Those of workers.
    pub cores: BTreeMap<usize, Core>,
}

impl CoreFacts {
    /// Looks at these cores.
    pub fn read(workers: impl IntoIterator<Item = usize>) -> CoreFacts {
        CoreFacts::read_in(Path::new(FOLDER), workers)
    }

    fn read_in(folder: &Path, workers: impl IntoIterator<Item = usize>) -> CoreFacts {
        let core = |core| (core, read_core(&folder.join(format!("cpu{core}"))));
        CoreFacts {
            available: crate::cores::available(),
            isolated: read_line(&folder.join("isolated").display().to_string())
                .map(|text| read_list(&text)),
            irqbalance: runs("irqbalance"),
            cores: workers.into_iter().map(core).collect(),
        }
    }

    /// Why something of one of these cores is not known, if it is not.
    fn unread<'a, T: 'a>(
        &'a self,
        cores: &[usize],
        fact: impl Fn(&'a Core) -> &'a Read<T>,
    ) -> Option<&'a str> {
        let of = |core| fact(self.cores.get(core)?).as_ref().err();
        cores.iter().find_map(of).map(String::as_str)
    }
}

fn read_core(folder: &Path) -> Core {
    let siblings = folder.join("topology/thread_siblings_list");
    Core {
        numa: read_numa(folder),
        governor: read_if_any(folder, "cpufreq/scaling_governor"),
        siblings: read_line(&siblings.display().to_string()).map(|text| read_list(&text)),
    }
}

/// A core's folder has a link to its NUMA domain, by the name of that.
fn read_numa(folder: &Path) -> Read<Option<usize>> {
    let unread = |error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        if number.is_some() {
            return Ok(number);
        }
    }
    Ok(None)
}

fn runs(name: &str) -> bool {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| std::fs::read_to_string(folder.path().join("comm")).ok())
        .any(|comm| comm.trim() == name)
}

/// An interface's workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// The interface.
    pub interface: String,
    /// Their cores, in the order of the queues.
    pub cores: Vec<usize>,
    /// The NIC's NUMA position; nothing where it has none.
    pub numa: Read<Option<usize>>,
    /// The NIC's interrupts, or why they cannot be read.
    pub interrupts: Read<Vec<Interrupt>>,
    /// Whether the workers drive the NIC themselves.
    pub busy_poll: bool,
}

/// What follows from it. `never_idle`: workers do not sleep (`poll = "busy"`).
pub fn findings(facts: &CoreFacts, workers: &[Workers], never_idle: bool) -> Vec<Finding> {
    let all: Vec<usize> = workers.iter().flat_map(|workers| workers.cores.clone()).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let mut findings = vec![
        enough(&all),
        siblings(facts, &all),
        isolated(facts, &all, never_idle),
        governor(facts, &all),
    ];
    for workers in workers {
        findings.extend(numa(facts, workers));
        findings.push(interrupts(facts, workers));
    }
    findings
}

fn enough(all: &[usize]) -> Finding {
    const SUBJECT: &str = "workers";
    let mut shared: Vec<usize> = all
        .iter()
        .filter(|core| all.iter().filter(|other| other == core).count() > 1)
        .copied()
        .collect();
    shared.sort_unstable();
    shared.dedup();
    let count = all.len();
    if shared.is_empty() {
        let sentence = match count {
            1 => format!("the only one has core {} to itself", list(all)),
            _ => format!("{count} workers, each on a core of its own: {}", list(all)),
        };
        return Finding::ok(Area::Cores, SUBJECT, sentence);
    }
    let sentence = format!(
        "there are more queues than cores: several of {count} workers share core {} and wait for \
         each other",
        list(shared)
    );
    Finding::warning(Area::Cores, SUBJECT, sentence)
        .mended_by("fewer queues (`ethtool -L`), or a machine with more cores")
}

fn siblings(facts: &CoreFacts, all: &[usize]) -> Finding {
    const SUBJECT: &str = "hardware threads";
    let crowded = |core: &&usize| {
        let siblings = facts.cores.get(*core).and_then(|core| core.siblings.as_ref().ok());
        let mut others = siblings.into_iter().flatten().filter(|sibling| sibling != core);
        others.any(|sibling| all.contains(sibling))
    };
    let crowded: Vec<usize> = all.iter().filter(crowded).copied().collect();
    if crowded.is_empty() {
        if let Some(why) = facts.unread(all, |core| &core.siblings) {
            let what = "whether two workers are on threads of one core";
            return Finding::unread(Area::Cores, SUBJECT, what, why);
        }
        let sentence = "no two workers are on threads of one core";
        return Finding::ok(Area::Cores, SUBJECT, sentence);
    }
    let sentence = format!("workers on {} share a core as its hardware threads", list(crowded));
    Finding::warning(Area::Cores, SUBJECT, sentence)
        .mended_by("name cores in the config (`lscpu -e` shows which belong together)")
}

fn isolated(facts: &CoreFacts, all: &[usize], never_idle: bool) -> Finding {
    const SUBJECT: &str = "isolated cores";
    let isolated = match &facts.isolated {
        Ok(isolated) => isolated.as_slice(),
        Err(why) => return Finding::unread(Area::Cores, SUBJECT, "their list", why),
    };
    match isolated {
        [] if never_idle => {
            let sentence =
                "none is isolated, so that other programs interrupt workers that never sleep";
            Finding::warning(Area::Cores, SUBJECT, sentence).mended_by(format!(
                "boot with isolcpus={}, and start shunt with taskset or CPUAffinity=",
                list(all).replace(' ', "")
            ))
        }
        [] => Finding::ok(
            Area::Cores,
            SUBJECT,
            "none: other programs may interrupt the workers for a while",
        ),
        isolated if all.iter().all(|core| isolated.contains(core)) => {
            Finding::ok(Area::Cores, SUBJECT, "all workers are on isolated cores")
        }
        isolated => {
            let sentence = format!(
                "{} are isolated and workers run on others: a program is put on isolated cores \
                 only if it is told so",
                list(isolated)
            );
            Finding::warning(Area::Cores, SUBJECT, sentence).mended_by(format!(
                "`taskset -c 0-{} shunt run`, or CPUAffinity= in the unit, and cores = [{}] in \
                 the config",
                isolated.iter().chain(&facts.available).max().unwrap_or(&0),
                list(isolated)
            ))
        }
    }
}

fn governor(facts: &CoreFacts, all: &[usize]) -> Finding {
    const SUBJECT: &str = "CPU governor";
    let of = |core: &usize| facts.cores.get(core)?.governor.as_ref().ok()?.as_deref();
    let slow: Vec<String> = all
        .iter()
        .filter_map(|core| Some((core, of(core)?)))
        .filter(|(_, governor)| *governor != "performance")
        .map(|(core, governor)| format!("{governor} on core {core}"))
        .collect();
    if !slow.is_empty() {
        let sentence = format!("{}: a core that has slept is slow at first", list(slow));
        return Finding::warning(Area::Cores, SUBJECT, sentence).mended_by(format!(
            "cpupower -c {} frequency-set -g performance",
            list(all).replace(' ', "")
        ));
    }
    if let Some(why) = facts.unread(all, |core| &core.governor) {
        return Finding::unread(Area::Cores, SUBJECT, "it", why);
    }
    let sentence = match all.iter().any(|core| of(core).is_some()) {
        true => "performance on the workers' cores",
        false => "this kernel does not set the cores' frequency",
    };
    Finding::ok(Area::Cores, SUBJECT, sentence)
}

fn numa(facts: &CoreFacts, workers: &Workers) -> Option<Finding> {
    let unread = |why| Finding::unread(Area::Cores, &workers.interface, "its NUMA node", why);
    let nic = match &workers.numa {
        Ok(nic) => (*nic)?,
        Err(why) => return Some(unread(why)),
    };
    let of = |core: &usize| *facts.cores.get(core)?.numa.as_ref().ok()?;
    let far = |core: &&usize| of(core).is_some_and(|numa| numa != nic);
    let far: Vec<usize> = workers.cores.iter().filter(far).copied().collect();
    if far.is_empty() {
        if let Some(why) = facts.unread(&workers.cores, |core| &core.numa) {
            return Some(unread(why));
        }
        let sentence = format!("the NIC and its workers are on NUMA node {nic}");
        return Some(Finding::ok(Area::Cores, &workers.interface, sentence));
    }
    let sentence = format!(
        "the NIC is on NUMA node {nic} and the workers on core {} are not: every packet crosses \
         over",
        list(far)
    );
    let finding = Finding::warning(Area::Cores, &workers.interface, sentence);
    Some(finding.mended_by(format!(
        "choose cores of /sys/devices/system/node/node{nic}/cpulist in the config"
    )))
}

/// The command that has one core handle these.
fn move_to(core: usize, interrupts: &[&Interrupt]) -> String {
    match interrupts {
        [one] => format!("echo {core} > /proc/irq/{}/smp_affinity_list", one.number),
        several => {
            let numbers: Vec<String> = several.iter().map(|one| one.number.to_string()).collect();
            let numbers = numbers.join(" ");
            format!("for n in {numbers}; do echo {core} > /proc/irq/$n/smp_affinity_list; done")
        }
    }
}

fn interrupts(facts: &CoreFacts, workers: &Workers) -> Finding {
    let interface = workers.interface.as_str();
    let interrupts = match &workers.interrupts {
        Ok(interrupts) => interrupts,
        Err(why) => return Finding::unread(Area::Cores, interface, "its interrupts", why),
    };
    if interrupts.is_empty() {
        return Finding::ok(Area::Cores, interface, "it has no interrupts of its own");
    }
    let on_workers: Vec<&Interrupt> = interrupts
        .iter()
        .filter(|interrupt| interrupt.cores.iter().any(|core| workers.cores.contains(core)))
        .collect();
    let balanced = facts.irqbalance && !workers.busy_poll;
    if on_workers.is_empty() {
        return match balanced {
            true => Finding::warning(
                Area::Cores,
                interface,
                "its interrupts are on other cores than its workers, until irqbalance moves them",
            )
            .mended_by("systemctl disable --now irqbalance"),
            false => Finding::ok(
                Area::Cores,
                interface,
                "its interrupts are on other cores than its workers",
            ),
        };
    }
    if workers.busy_poll {
        let sentence = "its interrupts are on its workers' cores, as suits busy polling";
        return Finding::ok(Area::Cores, interface, sentence);
    }
    let names = list(on_workers.iter().map(|interrupt| {
        format!("{} ({}) on core {}", interrupt.number, interrupt.name, list(&interrupt.cores))
    }));
    let sentence = format!("interrupts {names}: driver and worker take turns on one core");
    let free = facts.available.iter().find(|core| !workers.cores.contains(core));
    Finding::warning(Area::Cores, interface, sentence).mended_by(match free {
        Some(core) => move_to(*core, &on_workers),
        None => "add [interface.busy_poll] to the config".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn facts() -> CoreFacts {
        let core = |numa, siblings: &[usize]| Core {
            numa: Ok(Some(numa)),
            governor: Ok(Some("performance".into())),
            siblings: Ok(siblings.to_vec()),
        };
        CoreFacts {
            available: vec![0, 1, 2, 3],
            isolated: Ok(vec![]),
            irqbalance: false,
            cores: BTreeMap::from([
                (1, core(0, &[1, 5])),
                (2, core(0, &[2, 6])),
                (3, core(1, &[3, 7])),
                (5, core(0, &[1, 5])),
            ]),
        }
    }

    fn workers(cores: &[usize]) -> Workers {
        Workers {
            interface: "eth0".into(),
            cores: cores.to_vec(),
            numa: Ok(Some(0)),
            interrupts: Ok(vec![Interrupt { number: 30, name: "eth0-0".into(), cores: vec![0] }]),
            busy_poll: false,
        }
    }

    #[test]
    fn good_cores_are_ok() {
        for finding in findings(&facts(), &[workers(&[1, 2])], false) {
            assert_eq!(finding.state, State::Ok, "{finding:?}");
        }
        assert!(findings(&facts(), &[], true).is_empty());
    }

    #[test]
    fn shared_cores_and_threads_are_named() {
        let shared = enough(&[1, 0, 1]);
        assert_eq!(shared.state, State::Warning);
        assert!(
            shared.sentence.contains("more queues than cores")
                && shared.sentence.contains("core 1 ")
        );
        let threads = siblings(&facts(), &[1, 5]);
        assert_eq!(threads.state, State::Warning);
        assert!(threads.sentence.contains("1, 5"), "{threads:?}");
    }

    #[test]
    fn isolated_cores_are_used_or_it_is_said_how() {
        let with = |isolated: &[usize], all: &[usize], never_idle| {
            let facts = CoreFacts { isolated: Ok(isolated.to_vec()), ..facts() };
            super::isolated(&facts, all, never_idle)
        };
        assert_eq!(with(&[], &[1], false).state, State::Ok);
        assert_eq!(with(&[1, 2], &[1], true).state, State::Ok);
        let unused = with(&[2, 3], &[1], false);
        assert_eq!(unused.state, State::Warning);
        assert!(unused.remedy.unwrap().contains("taskset -c 0-3"));
        assert!(with(&[], &[1, 2], true).remedy.unwrap().contains("isolcpus=1,2"));
    }

    #[test]
    fn a_governor_that_saves_power_is_named() {
        let mut facts = facts();
        facts.cores.get_mut(&2).unwrap().governor = Ok(Some("powersave".into()));
        let slow = governor(&facts, &[1, 2]);
        assert_eq!(slow.state, State::Warning);
        assert!(slow.sentence.contains("powersave on core 2"), "{slow:?}");
        facts.cores.get_mut(&1).unwrap().governor = Ok(None);
        assert!(governor(&facts, &[1]).sentence.contains("does not set"));
    }

    #[test]
    fn a_core_far_from_the_nic_is_named() {
        let far = numa(&facts(), &workers(&[1, 3])).unwrap();
        assert_eq!(far.state, State::Warning);
        assert!(far.sentence.contains("core 3 "), "{far:?}");
        assert_eq!(numa(&facts(), &Workers { numa: Ok(None), ..workers(&[3]) }), None);
    }

    #[test]
    fn an_interrupt_on_a_workers_core_is_named_unless_it_polls() {
        let here = Interrupt { number: 31, name: "eth0-rx".into(), cores: vec![1] };
        let crowded = Workers { interrupts: Ok(vec![here]), ..workers(&[1]) };
        let found = interrupts(&facts(), &crowded);
        assert_eq!(found.state, State::Warning);
        assert_eq!(found.remedy.as_deref(), Some("echo 0 > /proc/irq/31/smp_affinity_list"));
        let mut two = crowded.clone();
        two.interrupts.as_mut().unwrap().push(Interrupt {
            number: 32,
            name: "eth0-tx".into(),
            cores: vec![1],
        });
        let both = interrupts(&facts(), &two).remedy.unwrap();
        assert_eq!(both, "for n in 31 32; do echo 0 > /proc/irq/$n/smp_affinity_list; done");
        let polling = Workers { busy_poll: true, ..crowded };
        assert_eq!(interrupts(&facts(), &polling).state, State::Ok);
        let moving = CoreFacts { irqbalance: true, ..facts() };
        assert_eq!(interrupts(&moving, &workers(&[1])).state, State::Warning);
        let none = Workers { interrupts: Ok(vec![]), ..workers(&[1]) };
        assert_eq!(interrupts(&facts(), &none).state, State::Ok);
        let unread = Workers { interrupts: Err("no".into()), ..workers(&[1]) };
        assert_eq!(interrupts(&facts(), &unread).state, State::Warning);
    }

    #[test]
    fn this_machine_can_be_read() {
        let facts = CoreFacts::read([0]);
        assert!(!facts.available.is_empty());
        assert!(facts.cores[&0].siblings.as_ref().is_ok_and(|siblings| siblings.contains(&0)));
    }

    #[test]
    fn what_cannot_be_read_is_no_ok() {
        let sys = lab::TempDir::create("no-cores").unwrap();
        let unread = CoreFacts { irqbalance: false, ..CoreFacts::read_in(sys.path(), [1, 2]) };
        for finding in findings(&unread, &[workers(&[1, 2])], false) {
            let known = finding.subject == "workers" || finding.sentence.contains("interrupts");
            let expected = if known { State::Ok } else { State::Warning };
            assert_eq!(finding.state, expected, "{finding:?}");
        }
        let nic = Workers { numa: Err("no".into()), ..workers(&[1]) };
        assert_eq!(numa(&facts(), &nic).unwrap().state, State::Warning);
        // What is known to be bad is not hidden by what is not known.
        let mut half = facts();
        half.cores.get_mut(&1).unwrap().governor = Err("no".into());
        half.cores.get_mut(&2).unwrap().governor = Ok(Some("powersave".into()));
        assert!(governor(&half, &[1, 2]).sentence.contains("powersave on core 2"));
    }

    #[test]
    fn a_core_is_read_as_sysfs_has_it() {
        let sys = lab::TempDir::create("cores").unwrap();
        let core = sys.path().join("cpu1");
        for folder in ["topology", "cpufreq", "node3"] {
            std::fs::create_dir_all(core.join(folder)).unwrap();
        }
        std::fs::write(core.join("topology/thread_siblings_list"), "1,5\n").unwrap();
        std::fs::write(core.join("cpufreq/scaling_governor"), "powersave\n").unwrap();
        sys.write("isolated", "2-3\n").unwrap();
        let facts = CoreFacts::read_in(sys.path(), [1]);
        assert_eq!(facts.isolated, Ok(vec![2, 3]));
        let expected = Core {
            numa: Ok(Some(3)),
            governor: Ok(Some("powersave".into())),
            siblings: Ok(vec![1, 5]),
        };
        assert_eq!(facts.cores[&1], expected);
    }
}
