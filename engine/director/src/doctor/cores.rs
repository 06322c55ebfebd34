//! The workers' cores: whether there are enough, whose they are besides, and how fast.

use super::finding::{Area, Finding, list, read_line, read_list};
use super::nic::Interrupt;
use std::collections::BTreeMap;

const FOLDER: &str = "/sys/devices/system/cpu";

/// What was read of one core.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Core {
    /// Its NUMA position, where the kernel knows of such.
    pub numa: Option<usize>,
    /// Its frequency's governor; nothing: the kernel does not set its frequency.
    pub governor: Option<String>,
    /// The hardware threads of the same core, itself included.
    pub siblings: Vec<usize>,
}

/// What was read of the cores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CoreFacts {
    /// Those that this process may use.
    pub available: Vec<usize>,
    /// Those that the kernel schedules nothing on by itself (isolcpus).
    pub isolated: Vec<usize>,
    /// Whether irqbalance runs.
    pub irqbalance: bool,
    /// Those of workers.
    pub cores: BTreeMap<usize, Core>,
}

impl CoreFacts {
    /// Looks at these cores.
    pub fn read(workers: impl IntoIterator<Item = usize>) -> CoreFacts {
        let cores = workers.into_iter().map(|core| (core, read_core(core))).collect();
        CoreFacts {
            available: crate::cores::available(),
            isolated: read_line(&format!("{FOLDER}/isolated"))
                .map(|text| read_list(&text))
                .unwrap_or_default(),
            irqbalance: runs("irqbalance"),
            cores,
        }
    }
}

fn read_core(core: usize) -> Core {
    let folder = format!("{FOLDER}/cpu{core}");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    Core {
        // The folder has a link to its NUMA domain, by the name of that.
        numa: entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
            .next(),
        governor: read_line(&format!("{folder}/cpufreq/scaling_governor")).ok(),
        siblings: read_line(&format!("{folder}/topology/thread_siblings_list"))
            .map(|text| read_list(&text))
            .unwrap_or_default(),
    }
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
    /// The NIC's NUMA position.
    pub numa: Option<usize>,
    /// The NIC's interrupts, or why they cannot be read.
    pub interrupts: Result<Vec<Interrupt>, String>,
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
        let siblings = facts.cores.get(*core).map(|core| core.siblings.as_slice());
        let others = siblings.unwrap_or_default().iter().filter(|sibling| sibling != core);
        others.filter(|sibling| all.contains(sibling)).count() > 0
    };
    let crowded: Vec<usize> = all.iter().filter(crowded).copied().collect();
    if crowded.is_empty() {
        let sentence = "no two workers are on threads of one core";
        return Finding::ok(Area::Cores, SUBJECT, sentence);
    }
    let sentence = format!("workers on {} share a core as its hardware threads", list(crowded));
    Finding::warning(Area::Cores, SUBJECT, sentence)
        .mended_by("name cores in the config (`lscpu -e` shows which belong together)")
}

fn isolated(facts: &CoreFacts, all: &[usize], never_idle: bool) -> Finding {
    const SUBJECT: &str = "isolated cores";
    match facts.isolated.as_slice() {
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
    let of = |core: &usize| facts.cores.get(core).and_then(|core| core.governor.as_deref());
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
    let sentence = match all.iter().any(|core| of(core).is_some()) {
        true => "performance on the workers' cores",
        false => "this kernel does not set the cores' frequency",
    };
    Finding::ok(Area::Cores, SUBJECT, sentence)
}

fn numa(facts: &CoreFacts, workers: &Workers) -> Option<Finding> {
    let nic = workers.numa?;
    let far = |core: &&usize| {
        facts.cores.get(*core).and_then(|core| core.numa).is_some_and(|numa| numa != nic)
    };
    let far: Vec<usize> = workers.cores.iter().filter(far).copied().collect();
    if far.is_empty() {
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
    let Some(first) = on_workers.first() else {
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
    };
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
        Some(core) => format!("echo {core} > /proc/irq/{}/smp_affinity_list", first.number),
        None => "add [interface.busy_poll] to the config".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn facts() -> CoreFacts {
        let core = |numa, siblings: &[usize]| Core {
            numa: Some(numa),
            governor: Some("performance".into()),
            siblings: siblings.to_vec(),
        };
        CoreFacts {
            available: vec![0, 1, 2, 3],
            cores: BTreeMap::from([
                (1, core(0, &[1, 5])),
                (2, core(0, &[2, 6])),
                (3, core(1, &[3, 7])),
                (5, core(0, &[1, 5])),
            ]),
            ..CoreFacts::default()
        }
    }

    fn workers(cores: &[usize]) -> Workers {
        Workers {
            interface: "eth0".into(),
            cores: cores.to_vec(),
            numa: Some(0),
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
            let facts = CoreFacts { isolated: isolated.to_vec(), ..facts() };
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
        facts.cores.get_mut(&2).unwrap().governor = Some("powersave".into());
        let slow = governor(&facts, &[1, 2]);
        assert_eq!(slow.state, State::Warning);
        assert!(slow.sentence.contains("powersave on core 2"), "{slow:?}");
        assert!(governor(&CoreFacts::default(), &[1]).sentence.contains("does not set"));
    }

    #[test]
    fn a_core_far_from_the_nic_is_named() {
        let far = numa(&facts(), &workers(&[1, 3])).unwrap();
        assert_eq!(far.state, State::Warning);
        assert!(far.sentence.contains("core 3 "), "{far:?}");
        assert_eq!(numa(&facts(), &Workers { numa: None, ..workers(&[3]) }), None);
    }

    #[test]
    fn an_interrupt_on_a_workers_core_is_named_unless_it_polls() {
        let here = Interrupt { number: 31, name: "eth0-rx".into(), cores: vec![1] };
        let crowded = Workers { interrupts: Ok(vec![here]), ..workers(&[1]) };
        let found = interrupts(&facts(), &crowded);
        assert_eq!(found.state, State::Warning);
        assert_eq!(found.remedy.as_deref(), Some("echo 0 > /proc/irq/31/smp_affinity_list"));
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
        assert!(!facts.available.is_empty() && facts.cores[&0].siblings.contains(&0));
    }
}
