//! The metadata of one embedded stream: its shards, their parents and hash ranges, in `stream.db`.
//!
//! This file is the truth about the topology: a split or merge happens when its commit here is durable. Sealing the parents'
//! databases follows and is done again by whoever finds it missing, so a crash in between loses nothing.
//!
//! Owns: the list of shards, hash ranges, split and merge. Does not own: records (shard), routing of a put (embedded).

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::ports::ShardInfo;

use super::database::{self, Lazy, Trouble, sqlite_fault};

const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE stream (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        format INTEGER NOT NULL, name TEXT NOT NULL, created INTEGER NOT NULL, created_shards INTEGER NOT NULL
    );
    CREATE TABLE shards (
        number INTEGER PRIMARY KEY,
        hash_start BLOB NOT NULL, hash_end BLOB NOT NULL,
        parent INTEGER, other_parent INTEGER, closed INTEGER NOT NULL
    );";

/// What is said once about a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    pub(super) created_us: i64,
    /// How many shards it was created with.
    pub(super) created_shards: usize,
}

/// A change of the topology.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reshard<'a> {
    /// One shard becomes two; the second starts at this hash key.
    Split(&'a ShardId, u128),
    /// Two neighbours become one.
    Merge(&'a ShardId, &'a ShardId),
}

/// `stream.db`.
pub(super) struct Catalog {
    path: PathBuf,
    connection: Lazy<Connection>,
}

impl Catalog {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("stream.db"), connection: Lazy::new() }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Creates the stream unless it is there; `false` = it is there. The shards' databases must exist before.
    pub(super) fn create(&self, nonce: u64, name: &str, shards: usize, now_us: i64) -> Result<bool> {
        database::create(&self.path, nonce, |connection| {
            connection.execute_batch(SCHEMA)?;
            connection.execute("INSERT INTO stream VALUES (1, ?1, ?2, ?3, ?4)", params![FORMAT, name, now_us, shards as i64])?;
            even_ranges(shards)
                .into_iter()
                .enumerate()
                .try_for_each(|(number, range)| insert(connection, number as i64, range, [None, None]))
        })
    }

    pub(super) fn meta(&self) -> Result<Meta> {
        let (format, meta) = self.read(|connection| {
            connection.query_row("SELECT format, created, created_shards FROM stream", [], |row| {
                let meta = Meta { created_us: row.get(1)?, created_shards: row.get::<_, i64>(2)? as usize };
                Ok((row.get::<_, i64>(0)?, meta))
            })
        })?;
        if format != FORMAT {
            return Err(Fault::config(format!(
                "{} has format {format}, this version reads {FORMAT}: use the version that wrote it",
                self.path.display()
            )));
        }
        Ok(meta)
    }

    /// All shards by number, those without a record left included.
    pub(super) fn shards(&self) -> Result<Vec<ShardInfo>> {
        self.read(list)
    }

    /// Is this shard split or merged away?
    pub(super) fn is_closed(&self, shard: &ShardId) -> Result<bool> {
        let number = number_of(shard);
        let closed = self.read(|connection| {
            connection
                .prepare_cached("SELECT closed FROM shards WHERE number = ?1")?
                .query_row([number], |row| row.get(0))
                .optional()
        })?;
        Ok(closed.unwrap_or(false))
    }

    /// Closes the parents and creates the children in one commit; `create_child` makes a child's database first.
    pub(super) fn reshard(
        &self,
        change: Reshard<'_>,
        mut create_child: impl FnMut(&ShardId) -> Result<()>,
    ) -> Result<Vec<ShardId>> {
        self.connection.with(
            || database::open(&self.path),
            |connection| {
                let mut transact = || -> Result<Vec<ShardId>, Trouble> {
                    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                    let shards = list(&transaction)?;
                    let (parents, ranges) = plan(&shards, change)?;
                    let mut children = Vec::new();
                    for parent in &parents {
                        transaction.execute("UPDATE shards SET closed = 1 WHERE number = ?1", [number_of(parent)])?;
                    }
                    let mut parent_numbers = parents.iter().map(number_of);
                    let parent_numbers = [parent_numbers.next(), parent_numbers.next()];
                    for (number, range) in (shards.len() as i64..).zip(ranges) {
                        let child = shard_name(number);
                        create_child(&child)?;
                        insert(&transaction, number, range, parent_numbers)?;
                        children.push(child);
                    }
                    transaction.commit()?;
                    Ok(children)
                };
                transact().map_err(|trouble| trouble.into_fault(&format!("reshard in {}", self.path.display())))
            },
        )
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.connection.with(
            || database::open(&self.path),
            |connection| work(connection).map_err(|error| sqlite_fault(&error, &format!("read {}", self.path.display()))),
        )
    }
}

/// `shardId-` and twelve digits, as Kinesis writes it.
pub(super) fn shard_name(number: i64) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

// A name of another form gives a number that no shard has.
fn number_of(shard: &ShardId) -> i64 {
    let digits = shard.as_str().strip_prefix("shardId-").unwrap_or_default();
    digits.parse().ok().filter(|number| shard_name(*number) == *shard).unwrap_or(-1)
}

/// The ranges a stream starts with: equal parts of 0..2^128, the last takes the rest.
pub(super) fn even_ranges(shards: usize) -> Vec<(u128, u128)> {
    let shards = shards.max(1) as u128;
    // floor(2^128 / n) without 2^128, which has no place in 128 bits.
    let step = (u128::MAX / shards).wrapping_add(u128::from(u128::MAX % shards == shards - 1));
    let start = |i: u128| i.wrapping_mul(step);
    (0..shards).map(|i| (start(i), if i + 1 == shards { u128::MAX } else { start(i + 1) - 1 })).collect()
}

type Ranges = Vec<(u128, u128)>;

/// Parents and the children's ranges, or why it can't be done.
fn plan(shards: &[ShardInfo], change: Reshard<'_>) -> Result<(Vec<ShardId>, Ranges)> {
    let open = |wanted: &ShardId| match shards.iter().find(|info| info.shard == *wanted) {
        None => Err(Fault::config(format!("there is no shard {wanted}: `shards` lists them"))),
        Some(info) if info.closed => Err(Fault::config(format!("shard {wanted} is closed already: name one of its children"))),
        Some(info) => Ok(info),
    };
    match change {
        Reshard::Split(shard, at) => {
            let parent = open(shard)?;
            if at <= parent.hash_start || at > parent.hash_end {
                return Err(Fault::config(format!(
                    "shard {shard} can be split at a hash key from {} to {}",
                    parent.hash_start.saturating_add(1),
                    parent.hash_end
                )));
            }
            Ok((vec![shard.clone()], vec![(parent.hash_start, at - 1), (at, parent.hash_end)]))
        }
        Reshard::Merge(one, other) => {
            let (one, other) = (open(one)?, open(other)?);
            let (low, high) = if one.hash_start <= other.hash_start { (one, other) } else { (other, one) };
            if low.hash_end.checked_add(1) != Some(high.hash_start) {
                return Err(Fault::config(format!(
                    "shards {} and {} are not neighbours: only adjacent hash ranges can be merged",
                    one.shard, other.shard
                )));
            }
            Ok((vec![one.shard.clone(), other.shard.clone()], vec![(low.hash_start, high.hash_end)]))
        }
    }
}

fn insert(connection: &Connection, number: i64, range: (u128, u128), parents: [Option<i64>; 2]) -> rusqlite::Result<()> {
    let (start, end) = (range.0.to_be_bytes(), range.1.to_be_bytes());
    connection
        .execute("INSERT INTO shards VALUES (?1, ?2, ?3, ?4, ?5, 0)", params![number, start, end, parents[0], parents[1]])
        .map(|_| ())
}

fn list(connection: &Connection) -> rusqlite::Result<Vec<ShardInfo>> {
    connection
        .prepare_cached("SELECT number, hash_start, hash_end, parent, other_parent, closed FROM shards ORDER BY number")?
        .query_map([], |row| {
            let parents = [row.get::<_, Option<i64>>(3)?, row.get(4)?];
            Ok(ShardInfo {
                shard: shard_name(row.get(0)?),
                parents: parents.into_iter().flatten().map(shard_name).collect(),
                hash_start: u128::from_be_bytes(row.get(1)?),
                hash_end: u128::from_be_bytes(row.get(2)?),
                closed: row.get(5)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(dir: &tempfile::TempDir, shards: usize) -> Catalog {
        let catalog = Catalog::new(dir.path());
        assert!(catalog.create(1, "s", shards, 5).expect("creates"));
        catalog
    }

    #[test]
    fn hash_ranges_are_those_that_kinesis_gives() {
        assert_eq!(even_ranges(1), [(0, u128::MAX)]);
        assert_eq!(even_ranges(2)[0].1, 170_141_183_460_469_231_731_687_303_715_884_105_727);
        assert_eq!(
            even_ranges(3),
            [
                (0, 113_427_455_640_312_821_154_458_202_477_256_070_484),
                (113_427_455_640_312_821_154_458_202_477_256_070_485, 226_854_911_280_625_642_308_916_404_954_512_140_969),
                (226_854_911_280_625_642_308_916_404_954_512_140_970, u128::MAX),
            ]
        );
        for shards in 1..50 {
            let ranges = even_ranges(shards);
            assert_eq!((ranges[0].0, ranges[shards - 1].1), (0, u128::MAX));
            assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
        }
    }

    #[test]
    fn a_split_closes_the_parent_and_its_children_cover_its_range() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = catalog(&dir, 1);
        let mut created = Vec::new();
        let parent = shard_name(0);
        let children = catalog
            .reshard(Reshard::Split(&parent, 1 << 100), |child| {
                created.push(child.clone());
                Ok(())
            })
            .expect("splits");
        assert_eq!(children, [shard_name(1), shard_name(2)]);
        assert_eq!(created, children);
        let shards = catalog.shards().expect("lists");
        assert!(shards[0].closed && catalog.is_closed(&parent).expect("reads"));
        assert_eq!((shards[1].hash_start, shards[1].hash_end), (0, (1 << 100) - 1));
        assert_eq!((shards[2].hash_start, shards[2].hash_end, shards[2].closed), (1 << 100, u128::MAX, false));
        assert_eq!(shards[2].parents, [parent]);
    }

    #[test]
    fn a_merge_needs_open_neighbours() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = catalog(&dir, 3);
        let shard = shard_name;
        let merge = |a: i64, b: i64| catalog.reshard(Reshard::Merge(&shard(a), &shard(b)), |_| Ok(()));
        assert!(merge(0, 2).expect_err("a gap").message().contains("neighbours"));
        assert!(merge(0, 0).is_err(), "with itself");
        assert_eq!(merge(1, 0).expect("neighbours"), [shard(3)]);
        assert_eq!(catalog.shards().expect("lists")[3].parents, [shard(1), shard(0)]);
        assert!(merge(0, 1).expect_err("closed").message().contains("closed already"));
        assert!(merge(3, 9).expect_err("unknown").message().contains("no shard"));
        assert_eq!(merge(3, 2).expect("neighbours"), [shard(4)]);
    }

    #[test]
    fn a_child_that_cannot_be_created_leaves_the_topology_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = catalog(&dir, 1);
        let before = catalog.shards().expect("lists");
        let refused = catalog.reshard(Reshard::Split(&shard_name(0), 9), |_| Err(Fault::retry("disk full")));
        assert_eq!(refused.expect_err("refused").message(), "disk full");
        assert_eq!(catalog.shards().expect("lists"), before);
    }

    #[test]
    fn a_split_outside_of_the_range_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let catalog = catalog(&dir, 2);
        for at in [0, u128::MAX] {
            assert!(catalog.reshard(Reshard::Split(&shard_name(0), at), |_| Ok(())).is_err());
        }
    }
}
