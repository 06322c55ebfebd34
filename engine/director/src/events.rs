//! What happened to plugins: the last events, for whoever asks. Each is in the log, too.

use crate::plugin_views::EventView;
use crate::scheduler_name::SchedulerName;
use crate::service_name::ServiceName;
use crate::{say, warn};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::SystemTime;

/// Events that are remembered.
const REMEMBERED: usize = 256;

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// A version was uploaded.
    Upload,
    /// An operator went to another version.
    Rollback,
    /// A version failed too often and another took its place.
    AutomaticRollback,
    /// A version used up its fuel for a service and is no longer asked there.
    Benched,
    /// An instance trapped and was replaced by a fresh one.
    Restored,
    /// A stored version cannot be used.
    Unusable,
    /// A plugin or a version was removed.
    Removed,
}

impl EventKind {
    /// As the API calls it.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Upload => "upload",
            EventKind::Rollback => "rollback",
            EventKind::AutomaticRollback => "automatic_rollback",
            EventKind::Benched => "benched",
            EventKind::Restored => "restored",
            EventKind::Unusable => "unusable",
            EventKind::Removed => "removed",
        }
    }

    /// Whether an operator should see to it.
    fn is_trouble(self) -> bool {
        use EventKind::{AutomaticRollback, Benched, Restored, Unusable};
        matches!(self, AutomaticRollback | Benched | Restored | Unusable)
    }
}

/// The last events.
#[derive(Debug, Default)]
pub struct Events {
    last: VecDeque<EventView>,
    number: u64,
}

impl Events {
    /// Remembers an event and says it in the log.
    pub fn add(
        &mut self,
        kind: EventKind,
        plugin: &SchedulerName,
        service: Option<ServiceName>,
        message: String,
        dump: Option<PathBuf>,
    ) {
        let dump = dump.map(|path| path.display().to_string());
        let hint = dump.as_ref().map(|path| {
            format!("; `shunt plugin check FILE --replay {path}` repeats the call that failed")
        });
        let hint = hint.unwrap_or_default();
        if kind.is_trouble() {
            warn!("{message}{hint}");
        } else {
            say!("{message}{hint}");
        }
        self.number += 1;
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last.push_back(EventView {
            number: self.number,
            time: since_epoch.map_or(0, |since| since.as_secs()),
            kind: kind.name().to_owned(),
            plugin: plugin.name.clone(),
            version: plugin.version,
            service,
            message,
            dump,
        });
    }

    /// Those that are remembered, the oldest first.
    pub fn last(&self) -> impl Iterator<Item = &EventView> {
        self.last.iter()
    }
}
