//! Rows of what sinks were given, in the same database.
//!
//! Owns: the table `feed_rows`. Does not own: the connection (rows), what a row says (model/feed).

use rusqlite::{Connection, OptionalExtension, params};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::feed::FeedRow;
use sluicebox_actors::ports::Cas;

use super::{Broken, cas, json, number, parsed};

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS feed_rows (
        sink TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, json TEXT NOT NULL,
        PRIMARY KEY (sink, key)
    ) WITHOUT ROWID;
";

pub(super) fn all(connection: &Connection, sink: &str) -> Result<Vec<FeedRow>, Broken> {
    let made = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'feed_rows'";
    if connection.query_row(made, [], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new()); // looked at before a program that knows sinks ran here
    }
    let mut statement = connection.prepare_cached("SELECT json, version FROM feed_rows WHERE sink = ?1 ORDER BY key")?;
    let mut rows = statement.query(params![sink])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(feed_of(row)?);
    }
    Ok(out)
}

pub(super) fn one(connection: &Connection, sink: &str, key: &str) -> Result<Option<FeedRow>, Broken> {
    let mut statement = connection.prepare_cached("SELECT json, version FROM feed_rows WHERE sink = ?1 AND key = ?2")?;
    let mut rows = statement.query(params![sink, key])?;
    rows.next()?.map(feed_of).transpose()
}

pub(super) fn update(connection: &Connection, expected: u64, row: &FeedRow) -> Result<Cas, Broken> {
    if row.version <= expected {
        return Err(Fault::bug("every update of a sink's row raises its version").into());
    }
    let (key, json) = (row.key(), json(row)?);
    let (version, expected) = (number(row.version)?, number(expected)?);
    if expected == 0 {
        let mut statement = connection
            .prepare_cached("INSERT INTO feed_rows (sink, key, version, json) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?;
        return cas(statement.execute(params![row.sink, key, version, json])?);
    }
    let mut statement = connection
        .prepare_cached("UPDATE feed_rows SET version = ?3, json = ?4 WHERE sink = ?1 AND key = ?2 AND version = ?5")?;
    cas(statement.execute(params![row.sink, key, version, json, expected])?)
}

fn feed_of(row: &rusqlite::Row<'_>) -> Result<FeedRow, Broken> {
    let parsed: FeedRow = parsed(&row.get::<_, String>(0)?)?;
    match number(parsed.version)? == row.get::<_, i64>(1)? {
        true => Ok(parsed),
        false => Err(Fault::corrupt(format!("a row of the sink {} contradicts its version", parsed.sink)).into()),
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_actors::model::fault::Kind;
    use sluicebox_actors::model::feed::{Feed, WindowFeed, window_key};
    use sluicebox_actors::ports::Rows;

    use super::super::SqliteRows;
    use super::*;

    fn row(sink: &str, start_us: i64, version: u64) -> FeedRow {
        let fed = WindowFeed { table: "t".into(), start_us, revision: version, ..WindowFeed::default() };
        FeedRow { sink: sink.into(), version, fed: Feed::Window(fed) }
    }

    #[tokio::test]
    async fn a_sinks_row_is_created_once_and_updated_only_from_its_own_version() {
        let dir = tempfile::tempdir().expect("a directory");
        let rows = SqliteRows::open_at(&dir.path().join("rows.db")).expect("opens");
        let update = |expected: u64, row: FeedRow| {
            let rows = rows.clone();
            async move { rows.update_feed(expected, &row).await.expect("asks") }
        };
        assert_eq!(update(1, row("a", 7, 2)).await, Cas::Lost, "there is none");
        assert_eq!(update(0, row("a", 7, 1)).await, Cas::Won);
        assert_eq!(update(0, row("a", 7, 1)).await, Cas::Lost);
        assert_eq!(update(2, row("a", 7, 3)).await, Cas::Lost);
        assert_eq!(update(1, row("a", 7, 2)).await, Cas::Won);
        assert_eq!(update(0, row("b", 7, 1)).await, Cas::Won);
        assert_eq!(update(0, row("a", -7, 1)).await, Cas::Won);
        assert_eq!(rows.feed("a", &window_key("t", 7)).await.expect("reads"), Some(row("a", 7, 2)));
        assert_eq!(rows.feed("c", &window_key("t", 7)).await.expect("reads"), None);
        assert_eq!(rows.feeds("a").await.expect("reads"), [row("a", -7, 1), row("a", 7, 2)]);
        let back = rows.update_feed(2, &row("a", 7, 2)).await.expect_err("refused");
        assert_eq!(back.kind(), Kind::Bug);
    }
}
