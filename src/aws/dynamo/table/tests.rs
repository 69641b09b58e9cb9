//! Goal: a table that we make can be recovered to a point in time, or it is said that it can't.

use sluicebox_fakeaws::dynamo::FakeDynamo;
use sluicebox_fakeaws::faults::Fault as Trouble;

use super::*;
use crate::fixtures::{CALL, config};

async fn fake() -> (FakeDynamo, Table) {
    let fake = FakeDynamo::start().await.expect("starts");
    let table = Table::new(&Client::new(&config(&fake.url(), CALL)), AwsRuntime::current(), "rows");
    // A fake is ready when the test has ordered it, and not when time has passed.
    (fake, Table { every: Duration::ZERO, ..table })
}

#[tokio::test]
async fn a_new_table_gets_its_point_in_time_recovery_although_its_backups_take_a_while() {
    let (fake, table) = fake().await;
    for trouble in [
        Trouble::Status(400, "ContinuousBackupsUnavailableException"),
        Trouble::Status(400, "ContinuousBackupsUnavailableException"),
        Trouble::Throttle,
        Trouble::DropRequest,
    ] {
        fake.faults().next("UpdateContinuousBackups", 1, trouble);
    }
    table.create_if_missing(true).await.expect("creates");
    assert_eq!((fake.is_recoverable("rows"), fake.faults().left()), (true, 0));
}

#[tokio::test]
async fn backups_that_never_become_available_are_not_waited_for_without_an_end_and_the_work_goes_on() {
    let (fake, table) = fake().await;
    fake.faults().next("UpdateContinuousBackups", 1_000, Trouble::Status(400, "ContinuousBackupsUnavailableException"));
    table.create_if_missing(true).await.expect("is used without");
    let asked = fake.faults().calls("UpdateContinuousBackups");
    assert!(!fake.is_recoverable("rows") && asked == ACTIVE_TRIES as u64, "{asked}");
}

#[tokio::test]
async fn a_table_that_is_there_is_asked_whether_it_can_be_recovered_and_used_whatever_it_says() {
    let (fake, table) = fake().await;
    // As a start leaves it that dies between the two calls.
    table.create_if_missing(false).await.expect("creates");
    assert_eq!(fake.faults().calls("DescribeContinuousBackups"), 0, "nobody wants to know");
    for refusal in [None, Some("AccessDeniedException")] {
        refusal.into_iter().for_each(|code| fake.faults().next("DescribeContinuousBackups", 1, Trouble::Status(400, code)));
        table.create_if_missing(true).await.expect("is used");
    }
    assert_eq!(fake.faults().calls("DescribeContinuousBackups"), 2);
    assert!(!fake.is_recoverable("rows"), "left as it is");
}
