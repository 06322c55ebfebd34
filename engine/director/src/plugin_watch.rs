//! How plugins behave: which version fails too often to be kept.

use crate::plugins::PluginVersion;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Failures of each version within a window of time.
#[derive(Debug, Default)]
pub struct PluginWatch {
    failures: HashMap<PluginVersion, VecDeque<(Instant, u64)>>,
    told: HashMap<PluginVersion, Instant>,
    dumps: HashMap<PluginVersion, (Instant, PathBuf)>,
    rollbacks: BTreeMap<(PluginVersion, bool), u64>,
}

impl PluginWatch {
    /// Takes failures into account. Returns the versions that failed more than `limit` times
    /// within `window`, with how often.
    pub fn judge(
        &mut self,
        failures: &BTreeMap<PluginVersion, u64>,
        now: Instant,
        limit: u64,
        window: Duration,
    ) -> Vec<(PluginVersion, u64)> {
        for (version, &count) in failures {
            self.failures.entry(version.clone()).or_default().push_back((now, count));
        }
        self.failures.retain(|_, counts| {
            counts.retain(|(when, _)| now.duration_since(*when) < window);
            !counts.is_empty()
        });
        self.told.retain(|_, when| now.duration_since(*when) < window);
        self.dumps.retain(|_, (when, _)| now.duration_since(*when) < window);
        let sums = self.failures.iter().map(|(version, counts)| {
            (version.clone(), counts.iter().map(|(_, count)| count).sum::<u64>())
        });
        let mut too_often: Vec<_> = sums.filter(|&(_, sum)| sum > limit).collect();
        too_often.sort();
        too_often.iter().for_each(|(version, _)| self.forgive(version));
        too_often
    }

    /// A version begins anew.
    pub fn forgive(&mut self, version: &PluginVersion) {
        self.failures.remove(version);
    }

    /// Whether this is the first time within the window that something is told of a version.
    pub fn is_news(&mut self, version: &PluginVersion, now: Instant) -> bool {
        let known = self.told.contains_key(version);
        if !known {
            self.told.insert(version.clone(), now);
        }
        !known
    }

    /// The dump of a version that was written within the window.
    pub fn recent_dump(&self, version: &PluginVersion) -> Option<&Path> {
        self.dumps.get(version).map(|(_, path)| path.as_path())
    }

    /// A dump of a version was written.
    pub fn dumped(&mut self, version: PluginVersion, path: PathBuf, now: Instant) {
        self.dumps.insert(version, (now, path));
    }

    /// Counts a rollback from a version.
    pub fn count_rollback(&mut self, from: PluginVersion, automatic: bool) {
        *self.rollbacks.entry((from, automatic)).or_default() += 1;
    }

    /// Rollbacks so far, by the version that was left, and whether they were automatic.
    pub fn rollbacks(&self) -> impl Iterator<Item = (&PluginVersion, bool, u64)> {
        self.rollbacks.iter().map(|((version, automatic), &count)| (version, *automatic, count))
    }

    /// Forgets versions that are no more.
    pub fn forget(&mut self, exists: impl Fn(&PluginVersion) -> bool) {
        self.failures.retain(|version, _| exists(version));
        self.told.retain(|version, _| exists(version));
        self.dumps.retain(|version, _| exists(version));
        self.rollbacks.retain(|(version, _), _| exists(version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32) -> PluginVersion {
        PluginVersion { name: "my".parse().unwrap(), number }
    }

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn failures_count_together_within_the_window_only() {
        let (mut watch, start) = (PluginWatch::default(), Instant::now());
        let mut judge = |seconds, number, count| {
            let failures = BTreeMap::from([(version(number), count)]);
            watch.judge(&failures, start + Duration::from_secs(seconds), 10, WINDOW)
        };
        assert_eq!(judge(0, 1, 10), []);
        assert_eq!(judge(1, 2, 10), [], "another version");
        assert_eq!(judge(59, 1, 1), [(version(1), 11)]);
        assert_eq!(judge(59, 1, 10), [], "it begins anew");
        assert_eq!(judge(119, 1, 10), [], "those of then are forgotten");
        assert_eq!(judge(120, 1, 1), [(version(1), 11)]);
    }

    #[test]
    fn what_is_told_is_news_once_in_a_window() {
        let (mut watch, start) = (PluginWatch::default(), Instant::now());
        assert!(watch.is_news(&version(1), start));
        assert!(!watch.is_news(&version(1), start));
        assert!(watch.is_news(&version(2), start));
        watch.judge(&BTreeMap::new(), start + WINDOW, 10, WINDOW);
        assert!(watch.is_news(&version(1), start + WINDOW));
    }
}
