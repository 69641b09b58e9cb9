//! Many small worlds on two threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Does it for every number below `count` and panics with the first three complaints.
pub(crate) fn for_each_below(count: u64, check: impl Fn(u64) -> Result<(), String> + Sync) {
    let (next, wrong) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && number < count
        {
            wrong.lock().unwrap().extend(check(number).err());
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong[..wrong.len().min(3)].join("\n"));
}
