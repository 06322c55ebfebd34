use super::*;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A state_dir of the test's own, removed at its end.
struct StateDir(PathBuf);

impl StateDir {
    fn new() -> StateDir {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("shunt-store-{}-{number}", std::process::id());
        StateDir(std::env::temp_dir().join(name))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn version(number: u32, module: &[u8]) -> StoredVersion {
    let (digest, size) = (digest(module), module.len());
    StoredVersion { number, digest, label: None, size, uploaded: 1, failed: None }
}

fn names(versions: &[(u32, &[u8])], current: u32) -> Names {
    let versions: Vec<_> =
        versions.iter().map(|(number, module)| version(*number, module)).collect();
    let last = versions.last().map_or(0, |version| version.number);
    Names::from([("my".parse().unwrap(), StoredPlugin { current, last, versions })])
}

fn files(state_dir: &Path) -> usize {
    fs::read_dir(state_dir.join("plugins")).map_or(0, Iterator::count)
}

/// A program that another test is about to start holds what this process had open until it runs:
/// a lock file is only closed when that has let go of it, too.
fn once_free(mut open: impl FnMut() -> Result<PluginStore, StoreError>) -> PluginStore {
    let mut opened = None;
    let free = || {
        opened = open().ok();
        opened.is_some()
    };
    lab::wait_until(Duration::from_secs(10), "nobody holds the lock", free).unwrap();
    opened.unwrap()
}

#[test]
fn what_is_stored_is_read_again() {
    let dir = StateDir::new();
    let mut store = PluginStore::read(&dir.0).unwrap();
    assert!(store.names().is_empty());
    assert!(!dir.0.exists(), "nothing is made before something is stored");
    store.put(b"one").unwrap();
    store.put(b"two").unwrap();
    let there = names(&[(1, b"one"), (2, b"two")], 2);
    store.set_names(there.clone()).unwrap();
    let store = PluginStore::read(&dir.0).unwrap();
    assert_eq!(*store.names(), there);
    assert_eq!(store.module(&version(2, b"two")).unwrap(), b"two");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.0.join("plugins")), 0o700);
    assert_eq!(mode(&dir.0.join("plugins/index.json")), 0o600);
}

#[test]
fn modules_that_no_version_needs_are_deleted() {
    let dir = StateDir::new();
    let mut store = PluginStore::read(&dir.0).unwrap();
    store.put(b"one").unwrap();
    store.put(b"two").unwrap();
    store.set_names(names(&[(1, b"one"), (2, b"two"), (3, b"one")], 3)).unwrap();
    assert_eq!(files(&dir.0), 4, "two modules, the index and the lock");
    store.set_names(names(&[(2, b"two"), (3, b"one")], 3)).unwrap();
    assert_eq!(files(&dir.0), 4, "version 3 is the same module");
    store.set_names(names(&[(3, b"one")], 3)).unwrap();
    assert_eq!(files(&dir.0), 3);
}

#[test]
fn a_store_belongs_to_one_director_at_a_time() {
    let dir = StateDir::new();
    let mut first = PluginStore::open(&dir.0).unwrap();
    let mut second = PluginStore::open(&dir.0).unwrap();
    first.put(b"one").unwrap();
    for error in [second.put(b"two").unwrap_err(), PluginStore::open(&dir.0).unwrap_err()] {
        assert!(error.to_string().contains("belongs to another director"), "{error}");
    }
    assert!(PluginStore::read(&dir.0).is_ok(), "`shunt check` only reads");
    drop(first);
    once_free(|| PluginStore::open(&dir.0));
}

#[test]
fn a_store_on_a_disk_that_takes_nothing_can_be_read() {
    let dir = StateDir::new();
    fs::create_dir_all(dir.0.join("plugins/lock")).unwrap();
    let mut store = PluginStore::open(&dir.0).unwrap();
    assert!(store.put(b"one").unwrap_err().to_string().starts_with("cannot lock"));
}

#[test]
fn what_a_crash_has_left_goes_at_the_next_start() {
    let dir = StateDir::new();
    let mut store = PluginStore::open(&dir.0).unwrap();
    store.put(b"one").unwrap();
    store.set_names(names(&[(1, b"one")], 1)).unwrap();
    store.put(b"without a name").unwrap();
    fs::write(store.folder.join("0.wasm.new"), b"half").unwrap();
    fs::write(store.folder.join("notes"), b"an operator's").unwrap();
    drop(store);
    let store = once_free(|| PluginStore::open(&dir.0));
    assert_eq!(store.module(&version(1, b"one")).unwrap(), b"one");
    let mut left: Vec<_> = fs::read_dir(&store.folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let module = format!("{}.wasm", digest(b"one"));
    let mut expected = [&module, "index.json", "lock", "notes"];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn damage_is_noticed() {
    let dir = StateDir::new();
    let mut store = PluginStore::read(&dir.0).unwrap();
    store.put(b"one").unwrap();
    store.set_names(names(&[(1, b"one")], 1)).unwrap();
    fs::write(store.path(&digest(b"one")), b"on").unwrap();
    let error = store.module(&version(1, b"one")).unwrap_err().to_string();
    assert!(error.contains("is damaged") && error.contains("upload the plugin again"), "{error}");
    // Uploaded again, it is mended.
    store.put(b"one").unwrap();
    assert_eq!(store.module(&version(1, b"one")).unwrap(), b"one");

    let index = dir.0.join("plugins/index.json");
    let good = fs::read_to_string(&index).unwrap();
    for (bad, expected) in [
        (String::new(), "EOF"),
        (good[..good.len() / 2].to_owned(), "EOF"),
        (good.replace("\"format\": 1", "\"format\": 2"), "its format is 2"),
        (good.replace("\"current\": 1", "\"current\": 7"), "contradicts itself"),
        (good.replace("\"last\": 1", "\"last\": 0"), "contradicts itself"),
        (good.replace("\"last\": 1", "\"last\": 4294967295"), "contradicts itself"),
        (good.replace(&digest(b"one"), "../../etc/passwd"), "contradicts itself"),
        (good.replace("\"my\"", "\"../my\""), "is no name of a plugin"),
    ] {
        fs::write(&index, bad).unwrap();
        let error = PluginStore::read(&dir.0).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains(expected), "{error}");
    }
    drop(store);
    assert!(once_free(|| PluginStore::without_index(&dir.0)).names().is_empty());
    assert!(PluginStore::read(&dir.0).unwrap().names().is_empty());
    assert!(dir.0.join("plugins/index.json.damaged").exists());
}

#[test]
fn a_store_that_cannot_be_written_says_where_and_stays_as_it_was() {
    let dir = StateDir::new();
    fs::write(&dir.0, b"a file where the folder should be").unwrap();
    let folder = dir.0.join("plugins");
    let mut store = PluginStore { folder, names: Names::new(), lock: None };
    for error in [store.put(b"one").unwrap_err(), store.set_names(names(&[], 0)).unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("plugins") && error.contains("state_dir"), "{error}");
    }
    assert!(store.names().is_empty());
    fs::remove_file(&dir.0).unwrap();
}
