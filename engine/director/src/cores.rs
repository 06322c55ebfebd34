//! Which core each worker is pinned to.

/// Why the cores cannot be assigned as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// The core does not exist, or this process may not use it.
    #[error(
        "{interface}: there is no core {core} for this process; there are {}. Change cores in the config",
        list(available)
    )]
    NoSuchCore {
        /// The interface.
        interface: String,
        /// The core.
        core: usize,
        /// Those that exist and may be used.
        available: Vec<usize>,
    },
    /// Not one core a queue.
    #[error(
        "{interface} has {queues} queues and the config names {cores} cores for them: name one core for each queue, or leave cores out"
    )]
    Count {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: usize,
        /// The cores named.
        cores: usize,
    },
}

/// One interface's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The interface.
    pub interface: String,
    /// How many queues it has.
    pub queues: usize,
    /// The cores that the config names.
    pub cores: Option<Vec<usize>>,
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// The cores that exist and that this process may use.
pub fn available() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let mut cores: Vec<usize> = ids.into_iter().map(|id| id.id).collect();
    cores.sort_unstable();
    cores
}

/// A core for every queue of every interface, in their order.
///
/// Cores that nobody named are taken in turn, the first core last: the kernel's own work tends to
/// land there. A core is used twice only when there are more queues than cores.
pub fn assign(demands: &[Demand], available: &[usize]) -> Result<Vec<Vec<usize>>, CoresError> {
    let named: Vec<usize> =
        demands.iter().filter_map(|d| d.cores.as_ref()).flatten().copied().collect();
    let mut by_preference: Vec<usize> = available.to_vec();
    if !by_preference.is_empty() {
        by_preference.rotate_left(1);
    }
    let free = by_preference.iter().copied().filter(|core| !named.contains(core));
    // Once round the free ones, then all over again.
    let mut next = free.chain(by_preference.iter().copied().cycle());
    demands
        .iter()
        .map(|demand| match &demand.cores {
            None => Ok(next.by_ref().take(demand.queues).collect()),
            Some(cores) => check(demand, cores, available).map(|()| cores.clone()),
        })
        .collect()
}

fn check(demand: &Demand, cores: &[usize], available: &[usize]) -> Result<(), CoresError> {
    let interface = demand.interface.clone();
    if let Some(&core) = cores.iter().find(|core| !available.contains(core)) {
        return Err(CoresError::NoSuchCore { interface, core, available: available.to_vec() });
    }
    if cores.len() != demand.queues {
        return Err(CoresError::Count { interface, queues: demand.queues, cores: cores.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(queues: usize, cores: Option<&[usize]>) -> Demand {
        Demand { interface: "eth0".into(), queues, cores: cores.map(<[usize]>::to_vec) }
    }

    #[test]
    fn chosen_cores_are_distinct_and_the_first_comes_last() {
        assert_eq!(assign(&[demand(1, None)], &[0, 1]), Ok(vec![vec![1]]));
        assert_eq!(assign(&[demand(4, None)], &[0, 1, 2, 3]), Ok(vec![vec![1, 2, 3, 0]]));
        assert_eq!(
            assign(&[demand(1, None), demand(1, None)], &[2, 3]),
            Ok(vec![vec![3], vec![2]])
        );
        assert_eq!(assign(&[demand(1, None)], &[0]), Ok(vec![vec![0]]));
    }

    #[test]
    fn chosen_cores_keep_clear_of_named_ones() {
        let demands = [demand(2, None), demand(2, Some(&[1, 2]))];
        assert_eq!(assign(&demands, &[0, 1, 2, 3]), Ok(vec![vec![3, 0], vec![1, 2]]));
    }

    #[test]
    fn cores_are_shared_only_when_there_are_too_few() {
        assert_eq!(assign(&[demand(5, None)], &[0, 1]), Ok(vec![vec![1, 0, 1, 0, 1]]));
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error() {
        let error = assign(&[demand(1, Some(&[7]))], &[0, 1]).unwrap_err().to_string();
        assert!(error.contains("no core 7") && error.contains("there are 0, 1"), "{error}");
    }

    #[test]
    fn there_is_one_core_for_each_queue() {
        let error = assign(&[demand(2, Some(&[0]))], &[0, 1]).unwrap_err().to_string();
        assert!(error.contains("2 queues") && error.contains("1 cores"), "{error}");
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(!available().is_empty());
    }
}
