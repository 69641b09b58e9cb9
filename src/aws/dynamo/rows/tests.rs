//! Goal: DynamoRows answers as a plain map would, keeps every field, tells "lost" from "unknown", and finds all pages.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sluicebox_actors::model::epoch::{Hash, ObjectRef};
use sluicebox_actors::model::fault::Kind;
use sluicebox_actors::model::position::{Position, Sequence};
use sluicebox_actors::model::row::{ShardState, WindowStatus, WindowTotals};
use sluicebox_actors::model::window::Bound;
use sluicebox_fakeaws::dynamo::FakeDynamo;
use sluicebox_fakeaws::faults::Fault as Trouble;

use super::*;
use crate::fixtures::{CALL, config, emulator};

const TABLE: &str = "rows";

fn rows_at(url: &str, table: &str, pipeline: &str) -> DynamoRows {
    let client = Client::new(&config(url, CALL));
    DynamoRows::new(&client, AwsRuntime::current(), table, pipeline).expect("a good name")
}

async fn fake() -> (FakeDynamo, DynamoRows) {
    let fake = FakeDynamo::start().await.expect("starts");
    let rows = rows_at(&fake.url(), TABLE, "p");
    rows.create_if_missing(false).await.expect("creates");
    (fake, rows)
}

fn shard_row(name: &str, lease_epoch: u64, epoch: u64) -> ShardRow {
    let row = ShardRow::new("clicks", ShardId::new(name), (0, u128::MAX), ShardState::Open);
    ShardRow { owner: "host:1".into(), lease_epoch, epoch, ..row }
}

fn window_row(table: &str, start_us: i64, version: u64) -> WindowRow {
    WindowRow {
        table: table.into(),
        start_us,
        end_us: start_us.saturating_add(1),
        version,
        revision: 0,
        status: WindowStatus::Open,
        vector: BTreeMap::new(),
        content: None,
        rows: 0,
        counts: WindowTotals::default(),
        overflow: false,
        missing: Vec::new(),
        empty_since_us: None,
        sequences: BTreeMap::new(),
        published: 0,
        base: None,
    }
}

const fn fence(lease_epoch: u64, epoch: u64) -> Fence {
    Fence { lease_epoch, epoch }
}

/// What may be asked of rows.
#[derive(Clone, Debug)]
enum Ask {
    Shards,
    Shard(u8),
    Create(ShardRow),
    Update(Fence, ShardRow),
    Beat(u8, u64, u64),
    Want(u8, u64, String),
    Windows(u8),
    Window(u8, i64),
    UpdateWindow(u64, WindowRow),
}

/// What came back, comparable.
#[derive(PartialEq, Debug)]
enum Told {
    Shards(Vec<ShardRow>),
    Shard(Option<ShardRow>),
    Windows(Vec<WindowRow>),
    Window(Option<WindowRow>),
    Cas(Cas),
    Fault(Kind),
}

/// The rows as two maps: what the ports' words mean, and nothing else.
#[derive(Default)]
struct Model {
    shards: BTreeMap<String, ShardRow>,
    windows: BTreeMap<(String, i64), WindowRow>,
}

fn shard_name(number: u8) -> ShardId {
    ShardId::new(format!("shardId-{number:012}"))
}

fn table_name(number: u8) -> String {
    format!("hourly_{number}")
}

impl Model {
    fn answer(&mut self, ask: &Ask) -> Told {
        match ask {
            Ask::Shards => Told::Shards(self.shards.values().cloned().collect()),
            Ask::Shard(number) => Told::Shard(self.shards.get(shard_name(*number).as_str()).cloned()),
            Ask::Create(row) => match self.shards.contains_key(row.shard.as_str()) {
                true => Told::Cas(Cas::Lost),
                false => {
                    self.shards.insert(row.shard.as_str().to_owned(), row.clone());
                    Told::Cas(Cas::Won)
                }
            },
            Ask::Update(expected, row) if row.lease_epoch < expected.lease_epoch || row.epoch < expected.epoch => {
                Told::Fault(Kind::Bug)
            }
            Ask::Update(expected, row) => match self.shards.get_mut(row.shard.as_str()) {
                Some(stored) if stored.fence() == *expected => {
                    let wanted_by = if row.epoch > expected.epoch { &stored.wanted_by } else { &row.wanted_by };
                    *stored = ShardRow { wanted_by: wanted_by.clone(), ..row.clone() };
                    Told::Cas(Cas::Won)
                }
                Some(_) | None => Told::Cas(Cas::Lost),
            },
            Ask::Beat(number, lease_epoch, heartbeat) => {
                let stored = self.shards.get_mut(shard_name(*number).as_str());
                let stored = stored.filter(|stored| stored.lease_epoch == *lease_epoch);
                Told::Shard(stored.map(|stored| {
                    stored.heartbeat = *heartbeat;
                    stored.clone()
                }))
            }
            Ask::Want(number, lease_epoch, name) => {
                let stored = self.shards.get_mut(shard_name(*number).as_str());
                let stored = stored.filter(|stored| stored.lease_epoch == *lease_epoch);
                Told::Cas(stored.map_or(Cas::Lost, |stored| {
                    stored.wanted_by.clone_from(name);
                    Cas::Won
                }))
            }
            Ask::Windows(table) => {
                let table = table_name(*table);
                Told::Windows(self.windows.values().filter(|row| row.table == table).cloned().collect())
            }
            Ask::Window(table, start) => Told::Window(self.windows.get(&(table_name(*table), *start)).cloned()),
            Ask::UpdateWindow(expected, row) if row.version <= *expected => Told::Fault(Kind::Bug),
            Ask::UpdateWindow(expected, row) => {
                let key = (row.table.clone(), row.start_us);
                let stored = self.windows.get(&key).map_or(0, |stored| stored.version);
                if stored != *expected {
                    return Told::Cas(Cas::Lost);
                }
                self.windows.insert(key, row.clone());
                Told::Cas(Cas::Won)
            }
        }
    }
}

async fn ask(rows: &DynamoRows, ask: &Ask) -> Told {
    let told = match ask {
        Ask::Shards => rows.shards().await.map(Told::Shards),
        Ask::Shard(number) => rows.shard(&shard_name(*number)).await.map(Told::Shard),
        Ask::Create(row) => rows.create_shard(row).await.map(Told::Cas),
        Ask::Update(expected, row) => rows.update_shard(*expected, row).await.map(Told::Cas),
        Ask::Beat(number, lease_epoch, heartbeat) => {
            rows.beat(&shard_name(*number), *lease_epoch, *heartbeat).await.map(Told::Shard)
        }
        Ask::Want(number, lease_epoch, name) => rows.want(&shard_name(*number), *lease_epoch, name).await.map(Told::Cas),
        Ask::Windows(table) => rows.windows(&table_name(*table)).await.map(Told::Windows),
        Ask::Window(table, start) => rows.window(&table_name(*table), *start).await.map(Told::Window),
        Ask::UpdateWindow(expected, row) => rows.update_window(*expected, row).await.map(Told::Cas),
    };
    told.unwrap_or_else(|fault| Told::Fault(fault.kind()))
}

fn positions() -> impl Strategy<Value = Position> {
    prop_oneof![
        Just(Position::START),
        any::<i64>().prop_map(Position::arrival),
        "[1-9][0-9]{0,55}".prop_map(|digits| Position::after(digits.parse::<Sequence>().expect("digits"))),
    ]
}

fn objects() -> impl Strategy<Value = Option<ObjectRef>> {
    let object = |(key, len): (String, u64)| ObjectRef { sha256: Hash::of(key.as_bytes()), key, len };
    proptest::option::of(("[a-z0-9/.\"\\\\é-]{1,20}", any::<u64>()).prop_map(object))
}

prop_compose! {
    fn shard_rows()(
        number in 0u8..3, owner in "(host:[0-9]{1,3})?", wanted_by in "(host:[0-9])?",
        lease_epoch in 0u64..3, heartbeat in any::<u64>(), epoch in 0u64..3,
        state in prop_oneof![
            Just(ShardState::Blocked), Just(ShardState::Open), Just(ShardState::Drained), Just(ShardState::Retired)
        ],
        // Any order, and even twice: what is read must be what was written.
        parents in proptest::collection::vec(0u8..5, 0..3), children in proptest::collection::vec(0u8..5, 0..3),
        hashes in any::<(u128, u128)>(), position in positions(), bound in any::<i64>(), object in objects(),
    ) -> ShardRow {
        ShardRow {
            owner, wanted_by, lease_epoch, heartbeat, epoch, position, object,
            parents: parents.into_iter().map(shard_name).collect(),
            children: children.into_iter().map(shard_name).collect(),
            bound: Bound(bound),
            ..ShardRow::new("clicks", shard_name(number), hashes, state)
        }
    }
}

prop_compose! {
    fn window_rows()(
        table in 0u8..2, start in prop_oneof![-2i64..2, Just(i64::MIN), Just(i64::MAX)], version in 1u64..4,
        // Enough shards for both forms of the stored row.
        vector in proptest::collection::btree_map(0u8..=255, any::<u64>(), 0..4), wide in any::<bool>(),
        content in objects(), rows in any::<u64>(), position in positions(),
    ) -> WindowRow {
        let mut row = WindowRow { content, rows, ..window_row(&table_name(table), start, version) };
        row.vector = vector.into_iter().map(|(number, ordinal)| (shard_name(number), ordinal)).collect();
        if wide {
            let many = (0u16..300).map(|number| (ShardId::new(format!("shardId-{number:012}")), (Position::START, position)));
            row.sequences = many.collect();
        }
        row
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        1 => Just(Ask::Shards),
        1 => (0u8..3).prop_map(Ask::Shard),
        3 => shard_rows().prop_map(Ask::Create),
        8 => (0u64..3, 0u64..3, shard_rows()).prop_map(|(lease, epoch, row)| Ask::Update(fence(lease, epoch), row)),
        3 => (0u8..3, 0u64..3, any::<u64>()).prop_map(|(shard, lease, beat)| Ask::Beat(shard, lease, beat)),
        3 => (0u8..3, 0u64..3, "(host:[0-9])?").prop_map(|(shard, lease, name)| Ask::Want(shard, lease, name)),
        1 => (0u8..2).prop_map(Ask::Windows),
        1 => (0u8..2, -2i64..2).prop_map(|(table, start)| Ask::Window(table, start)),
        6 => (0u64..4, window_rows()).prop_map(|(expected, row)| Ask::UpdateWindow(expected, row)),
    ]
}

#[test]
fn any_sequence_of_questions_is_answered_as_by_a_map() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let fake = runtime.block_on(fake()).0;
    // Pages of two, so that every list has several; a pipeline per case, so that cases do not see each other's rows.
    fake.page_items(2);
    let case = std::cell::Cell::new(0u32);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 128, ..ProptestConfig::default() });
    let run = runner.run(&proptest::collection::vec(asks(), 1..40), |questions| {
        case.set(case.get() + 1);
        let mut model = Model::default();
        runtime.block_on(async {
            let rows = rows_at(&fake.url(), TABLE, &format!("p{}", case.get()));
            for question in questions.iter().chain(&[Ask::Shards, Ask::Windows(0), Ask::Windows(1)]) {
                prop_assert_eq!(ask(&rows, question).await, model.answer(question), "{:?}", question);
            }
            Ok(())
        })
    });
    // It prints the smallest failing sequence; proptest's seed file would add nothing to that.
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn of_two_that_want_a_lease_one_gets_it_and_a_life_sign_keeps_the_other_out() {
    let (fake, rows) = fake().await;
    let lease = |owner: &str, epoch, heartbeat| Lease { name: "gold".into(), owner: owner.into(), epoch, heartbeat };
    let (mine, theirs) = (lease("a", 1, 7), lease("b", 1, 9));
    assert_eq!(rows.update_lease(None, &mine).await.expect("asks"), Cas::Won);
    assert_eq!(rows.update_lease(None, &theirs).await.expect("asks"), Cas::Lost);
    let beaten = lease("a", 1, 8);
    assert_eq!(rows.update_lease(Some(&mine), &beaten).await.expect("asks"), Cas::Won);
    // Whoever saw it before the life sign comes too late, and so does the owner who has lost it.
    let taken = lease("b", 2, 9);
    assert_eq!(rows.update_lease(Some(&mine), &taken).await.expect("asks"), Cas::Lost);
    assert_eq!(rows.update_lease(Some(&beaten), &taken).await.expect("asks"), Cas::Won);
    assert_eq!(rows.update_lease(Some(&beaten), &lease("a", 1, 9)).await.expect("asks"), Cas::Lost);
    assert_eq!(rows.lease("gold").await.expect("reads"), Some(taken));
    assert_eq!(rows.lease("other").await.expect("reads"), None);
    drop(fake);
}

/// What any DynamoDB must do for us: run on the fake and, if one is named, on an emulator.
async fn contract(url: &str) {
    let table = format!("contract-{}", std::process::id());
    let rows = rows_at(url, &table, "p");
    assert_eq!(rows.check().await.expect_err("missing").kind(), Kind::Config);
    rows.create_if_missing(true).await.expect("creates");
    rows.create_if_missing(false).await.expect("is there");
    let (a, b) = (shard_row("a", 1, 0), shard_row("b", 1, 0));
    assert_eq!(rows.create_shard(&a).await.expect("asks"), Cas::Won);
    assert_eq!(rows.create_shard(&b).await.expect("asks"), Cas::Won);
    assert_eq!(rows.create_shard(&shard_row("a", 9, 9)).await.expect("asks"), Cas::Lost);
    let next = ShardRow { parents: vec![b.shard.clone(), a.shard.clone()], ..shard_row("a", 2, 1) };
    assert_eq!(rows.update_shard(fence(1, 1), &next).await.expect("asks"), Cas::Lost);
    assert_eq!(rows.update_shard(fence(1, 0), &next).await.expect("asks"), Cas::Won);
    assert_eq!(rows.update_shard(fence(1, 0), &next).await.expect("asks"), Cas::Lost);
    let missing = rows.update_shard(fence(0, 0), &shard_row("c", 0, 0)).await.expect("asks");
    assert_eq!((missing, rows.shard(&ShardId::new("c")).await.expect("reads")), (Cas::Lost, None));
    assert_eq!(rows.beat(&a.shard, 1, u64::MAX).await.expect("asks"), None);
    assert_eq!(rows.want(&a.shard, 1, "late").await.expect("asks"), Cas::Lost);
    let beaten = ShardRow { heartbeat: u64::MAX, ..next };
    assert_eq!(rows.beat(&a.shard, 2, u64::MAX).await.expect("asks"), Some(beaten.clone()));
    assert_eq!(rows.beat(&ShardId::new("c"), 0, 1).await.expect("asks"), None);
    assert_eq!(rows.shards().await.expect("reads"), [beaten, b]);
    for start in [3, -3, 0] {
        assert_eq!(rows.update_window(0, &window_row("t", start, 1)).await.expect("asks"), Cas::Won);
    }
    assert_eq!(rows.update_window(0, &window_row("t", 0, 1)).await.expect("asks"), Cas::Lost);
    assert_eq!(rows.update_window(2, &window_row("t", 0, 3)).await.expect("asks"), Cas::Lost);
    assert_eq!(rows.update_window(1, &window_row("t", 0, 2)).await.expect("asks"), Cas::Won);
    let starts: Vec<i64> = rows.windows("t").await.expect("reads").iter().map(|row| row.start_us).collect();
    assert_eq!(starts, [-3, 0, 3]);
    assert_eq!(rows.windows("u").await.expect("reads"), []);
    let mut wide = window_row("t", 0, 3);
    wide.missing = (0..20_000).map(|number| ShardId::new(format!("shardId-{number:012}"))).collect();
    assert_eq!(rows.update_window(2, &wide).await.expect("compressed"), Cas::Won);
    assert_eq!(rows.window("t", 0).await.expect("reads"), Some(wide));
    let mut huge = window_row("t", 9, 1);
    huge.missing = (0..12_000u32).map(|number| ShardId::new(Hash::of(&number.to_le_bytes()).as_str())).collect();
    let fault = rows.update_window(0, &huge).await.expect_err("over 400 KB");
    assert!(fault.kind() == Kind::Config && fault.message().contains("wider windows"), "{fault}");
    documents(&rows).await;
}

#[tokio::test]
async fn a_commit_leaves_it_alone_who_wants_the_shard_and_a_new_lease_does_not() {
    let (_fake, rows) = fake().await;
    let row = shard_row("a", 1, 0);
    assert_eq!(rows.create_shard(&row).await.expect("asks"), Cas::Won);
    assert_eq!(rows.want(&row.shard, 1, "late:1").await.expect("asks"), Cas::Won);
    let wanted_by = async || rows.shard(&row.shard).await.expect("reads").map(|row| row.wanted_by);
    // The owner has read its row before anybody asked.
    assert_eq!(rows.update_shard(fence(1, 0), &shard_row("a", 1, 1)).await.expect("asks"), Cas::Won);
    assert_eq!(wanted_by().await.as_deref(), Some("late:1"));
    assert_eq!(rows.update_shard(fence(1, 1), &shard_row("a", 2, 1)).await.expect("asks"), Cas::Won);
    assert_eq!(wanted_by().await.as_deref(), Some(""));
}

/// Row 49: a condition that fails on our own write is success.
async fn documents(rows: &DynamoRows) {
    let document = |version, json: &str| Document { key: "id".into(), version, json: json.into() };
    assert_eq!(rows.put_if_absent("k", "id", "{}").await.expect("asks"), Written::Won);
    assert_eq!(rows.put_if_absent("k", "id", "{}").await.expect("asks"), Written::Already);
    assert_eq!(rows.put_if_absent("k", "id", "[]").await.expect("asks"), Written::Lost(Some(document(1, "{}"))));
    assert_eq!(rows.update_if("k", "id", 1, "[1]").await.expect("asks"), Written::Won);
    assert_eq!(rows.update_if("k", "id", 1, "[1]").await.expect("asks"), Written::Already);
    assert_eq!(rows.update_if("k", "id", 1, "[2]").await.expect("asks"), Written::Lost(Some(document(2, "[1]"))));
    assert_eq!(rows.update_if("k", "none", 1, "[2]").await.expect("asks"), Written::Lost(None));
    assert_eq!(rows.document("k", "id").await.expect("asks"), Some(document(2, "[1]")));
    assert_eq!(rows.documents("k").await.expect("asks"), [document(2, "[1]")]);
    assert_eq!(rows.delete_if("k", "id", 1).await.expect("asks"), Written::Lost(Some(document(2, "[1]"))));
    assert_eq!(rows.delete_if("k", "id", 2).await.expect("asks"), Written::Won);
    assert_eq!(rows.delete_if("k", "id", 2).await.expect("asks"), Written::Already);
    assert_eq!(rows.documents("other").await.expect("asks"), []);
}

#[tokio::test]
async fn the_contract_holds_on_the_fake() {
    let fake = FakeDynamo::start().await.expect("starts");
    contract(&fake.url()).await;
}

#[tokio::test]
async fn the_contract_holds_on_an_emulator_if_one_is_named() {
    if let Some(url) = emulator("SLUICEBOX_TEST_DYNAMODB_URL") {
        contract(&url).await;
    }
}

/// Row 8.
#[tokio::test]
async fn a_cas_that_was_applied_and_whose_answer_was_lost_is_unknown_and_found_on_reading() {
    let (fake, rows) = fake().await;
    let (first, second) = (shard_row("a", 1, 0), shard_row("a", 1, 1));
    assert_eq!(rows.create_shard(&first).await.expect("asks"), Cas::Won);
    fake.faults().next("UpdateItem", 1, Trouble::DropResponse);
    assert_eq!(rows.update_shard(first.fence(), &second).await.expect_err("no answer").kind(), Kind::Retry);
    // Asked once: a repetition below us would have come back as lost.
    assert_eq!(fake.faults().calls("UpdateItem"), 1);
    assert_eq!(rows.shard(&first.shard).await.expect("reads"), Some(second));
}

/// Row 9.
#[tokio::test]
async fn a_cas_that_was_not_applied_is_unknown_and_one_more_try_advances_once() {
    let (fake, rows) = fake().await;
    let (first, second) = (shard_row("a", 1, 0), shard_row("a", 1, 1));
    assert_eq!(rows.create_shard(&first).await.expect("asks"), Cas::Won);
    fake.faults().next("UpdateItem", 1, Trouble::DropRequest);
    assert_eq!(rows.update_shard(first.fence(), &second).await.expect_err("no answer").kind(), Kind::Retry);
    assert_eq!(rows.shard(&first.shard).await.expect("reads"), Some(first.clone()));
    assert_eq!(rows.update_shard(first.fence(), &second).await.expect("asks"), Cas::Won);
    assert_eq!(rows.update_shard(first.fence(), &second).await.expect("asks"), Cas::Lost);
    assert_eq!(rows.shard(&first.shard).await.expect("reads"), Some(second));
}

/// Row 48, as far as rows go: a throttle is told at once, nothing was done, and nothing is sent again behind the caller's back.
#[tokio::test]
async fn a_throttle_is_told_at_once_and_changes_nothing() {
    let (fake, rows) = fake().await;
    let row = shard_row("a", 1, 0);
    assert_eq!(rows.create_shard(&row).await.expect("asks"), Cas::Won);
    fake.faults().next("UpdateItem", 2, Trouble::Throttle);
    let told = rows.beat(&row.shard, 1, 7).await.expect_err("throttled");
    assert!(told.kind() == Kind::Retry && told.message().contains("ProvisionedThroughputExceededException"), "{told}");
    assert_eq!(rows.update_shard(row.fence(), &shard_row("a", 1, 1)).await.expect_err("throttled").kind(), Kind::Retry);
    assert_eq!((fake.faults().calls("UpdateItem"), fake.faults().left()), (2, 0));
    assert_eq!(rows.shard(&row.shard).await.expect("reads"), Some(row));
}

#[tokio::test]
async fn a_slow_answer_and_a_service_that_is_away_are_retries() {
    let (fake, _) = fake().await;
    let client = Client::new(&config(&fake.url(), std::time::Duration::from_millis(50)));
    let rows = DynamoRows::new(&client, AwsRuntime::current(), TABLE, "p").expect("a good name");
    fake.faults().next("PutItem", 1, Trouble::Delay(std::time::Duration::from_secs(60)));
    let row = shard_row("a", 1, 0);
    assert_eq!(rows.create_shard(&row).await.expect_err("times out").kind(), Kind::Retry);
    assert_eq!(rows.shard(&row.shard).await.expect("reads"), Some(row.clone()), "it was applied");
    fake.faults().down(true);
    assert_eq!(rows.shard(&row.shard).await.expect_err("away").kind(), Kind::Retry);
    fake.faults().down(false);
    assert_eq!(rows.shards().await.expect("is back"), [row]);
}

#[tokio::test]
async fn a_table_with_other_keys_is_refused_with_the_way_out() {
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let fake = FakeDynamo::start().await.expect("starts");
    let client = Client::new(&config(&fake.url(), CALL));
    let key = KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash).build().expect("a key");
    let attribute = AttributeDefinition::builder().attribute_name("leaseKey").attribute_type(ScalarAttributeType::S).build();
    let create = client.create_table().table_name("kcl").billing_mode(BillingMode::PayPerRequest).key_schema(key);
    create.attribute_definitions(attribute.expect("an attribute")).send().await.expect("creates");
    for told in [rows_at(&fake.url(), "kcl", "p").check().await, rows_at(&fake.url(), "kcl", "p").create_if_missing(true).await] {
        let fault = told.expect_err("other keys");
        assert!(fault.kind() == Kind::Config && fault.message().contains("Kinesis Client Library"), "{fault}");
    }
    let bad = DynamoRows::new(&client, AwsRuntime::current(), "t", "a/b").expect_err("a slash");
    assert_eq!(bad.kind(), Kind::Config);
}

#[tokio::test]
async fn a_shard_reads_in_the_console_as_a_lease_of_the_kcl() {
    let (fake, rows) = fake().await;
    let client = Client::new(&config(&fake.url(), CALL));
    let attribute = async |name: &str| {
        let key = keys("p/shard", "a");
        let item = client.get_item().table_name(TABLE).set_key(Some(key)).send().await.expect("reads").item;
        item.and_then(|item| item.get(name).cloned())
    };
    let text = |text: &str| Some(AttributeValue::S(text.into()));
    let number = |number: &str| Some(AttributeValue::N(number.into()));
    rows.create_shard(&ShardRow { owner: String::new(), ..shard_row("a", 0, 0) }).await.expect("creates");
    assert_eq!((attribute("checkpoint").await, attribute("leaseOwner").await), (text("TRIM_HORIZON"), None));
    // Two owners come and none commits; then one commits.
    for lease in [1, 2] {
        rows.update_shard(fence(lease - 1, 0), &shard_row("a", lease, 0)).await.expect("asks");
    }
    assert_eq!(attribute("ownerSwitchesSinceCheckpoint").await, number("2"));
    let parents = vec![ShardId::new("y"), ShardId::new("x")];
    let position = Position::after(Sequence::dense(7));
    let open = ShardRow { position, parents, heartbeat: 5, ..shard_row("a", 2, 1) };
    rows.update_shard(fence(2, 0), &open).await.expect("asks");
    assert_eq!((attribute("checkpoint").await, attribute("ownerSwitchesSinceCheckpoint").await), (text("7"), number("0")));
    assert_eq!((attribute("leaseOwner").await, attribute("leaseCounter").await), (text("host:1"), number("5")));
    assert_eq!(attribute("parentShardId").await, Some(AttributeValue::Ss(vec!["x".into(), "y".into()])));
    assert_eq!(attribute("endingHashKey").await, text("340282366920938463463374607431768211455"));
    let drained = ShardRow { state: ShardState::Drained, parents: Vec::new(), epoch: 2, ..open };
    rows.update_shard(fence(2, 1), &drained).await.expect("asks");
    assert_eq!((attribute("checkpoint").await, attribute("parentShardId").await), (text("SHARD_END"), None));
    assert_eq!(rows.shard(&drained.shard).await.expect("reads"), Some(drained));
}

#[tokio::test]
async fn a_damaged_row_names_its_attribute_and_a_newer_one_its_format() {
    let (fake, rows) = fake().await;
    let client = Client::new(&config(&fake.url(), CALL));
    rows.create_shard(&shard_row("a", 1, 0)).await.expect("creates");
    for (change, kind, words) in [
        ("REMOVE #state SET #format = :1", Kind::Corrupt, "attribute state"),
        ("SET #state = :text, #format = :1", Kind::Corrupt, "attribute state"),
        ("SET #state = :text, #format = :2", Kind::Config, "newer program"),
    ] {
        let mut update = client.update_item().table_name(TABLE).set_key(Some(keys("p/shard", "a"))).update_expression(change);
        update = update.expression_attribute_names("#state", "state").expression_attribute_names("#format", "format");
        for (name, value) in [(":1", count(1)), (":2", count(2)), (":text", AttributeValue::S("lost".into()))] {
            if change.contains(name) {
                update = update.expression_attribute_values(name, value);
            }
        }
        update.send().await.expect("damages");
        let fault = rows.shards().await.expect_err("damaged");
        assert!(fault.kind() == kind && fault.message().contains(words), "{fault}");
    }
}
