//! One DynamoDB table and the few ways in which we ask it.
//!
//! The key is `pk` (what kind of rows, of which pipeline) and `leaseKey` (which row). The Kinesis Client Library's table has
//! the hash key `leaseKey` alone: there, the rows of one kind are found by reading every row of every kind. With `pk` before
//! it one Query gives the shards and one Query a Gold table's windows, read consistently, and windows cannot heat the shards'
//! partition. A table that the KCL made is therefore another table, to be imported from, not to be shared.
//!
//! No call is repeated by the SDK: a conditional write that was applied and then repeated would look lost to its own author.
//!
//! Owns: making and checking the table, reads of all pages, conditional writes and what their failures mean. Does not own:
//! what an item says (item, rows).

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification,
    PointInTimeRecoveryStatus, ReturnValue, ReturnValuesOnConditionCheckFailure, ScalarAttributeType, TableDescription,
    TableStatus,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use sluicebox_actors::model::fault::{Fault, Kind, Result};

use crate::client::AwsRuntime;
use crate::error::{Call, Class, classify, code};

use super::expression::{Change, Condition, Expression};

pub(super) const PK: &str = "pk";
pub(super) const LEASE_KEY: &str = "leaseKey";

const PAGES_MAX: usize = 10_000;
const ACTIVE_TRIES: usize = 60;
const ACTIVE_EVERY: Duration = Duration::from_secs(1);
const ITEM_TOO_BIG: &str = "a row is beyond the 400 KB of a DynamoDB item: a Gold table that sees so many \
     shards needs wider windows \
     or fewer shards";

/// Attributes by name.
pub(super) type Item = HashMap<String, AttributeValue>;

/// What became of a conditional write.
pub(super) enum Wrote {
    /// Done; the item as it is now, where that was asked for.
    Done(Option<Item>),
    /// The condition did not hold; the item as it is, if there is one.
    Refused(Option<Item>),
}

/// A table under our key schema. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Table {
    client: Client,
    io: AwsRuntime,
    name: String,
    resource: String,
    /// Between two looks at something that is being made.
    every: Duration,
}

impl Table {
    pub(super) fn new(client: &Client, io: AwsRuntime, name: &str) -> Self {
        let config = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let resource = format!("arn:aws:dynamodb:*:*:table/{name}");
        Self { client: Client::from_conf(config), io, name: name.to_owned(), resource, every: ACTIVE_EVERY }
    }

    fn call(&self, operation: &'static str) -> Call<'_> {
        Call { service: "dynamodb", operation, resource: &self.resource }
    }

    /// Runs a call on the threads for I/O.
    async fn ask<T, E, F>(&self, call: F) -> Result<Result<T, SdkError<E, HttpResponse>>>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.io.run(async move { Ok(call.await) }).await
    }

    async fn describe(&self) -> Result<Option<TableDescription>> {
        match self.ask(self.client.describe_table().table_name(&self.name).send()).await? {
            Ok(answer) => Ok(answer.table),
            Err(error) if classify(&error) == Class::NotFound => Ok(None),
            Err(error) => Err(self.call("DescribeTable").fault(&error)),
        }
    }

    /// Waits until the table may be used; its keys are checked on the way.
    async fn active(&self) -> Result<()> {
        for _ in 0..ACTIVE_TRIES {
            if let Some(found) = self.describe().await? {
                check_keys(&self.name, &found)?;
                if matches!(found.table_status, Some(TableStatus::Active | TableStatus::Updating)) {
                    return Ok(());
                }
            }
            tokio::time::sleep(self.every).await;
        }
        Err(Fault::retry(format!("the DynamoDB table {} is not active after a minute", self.name)))
    }

    /// The table is there, has our keys and may be used. A missing one is a `Config` fault.
    pub(super) async fn check(&self) -> Result<()> {
        match self.describe().await? {
            Some(found) => check_keys(&self.name, &found),
            None => Err(Fault::config(format!(
                "the DynamoDB table {} does not exist: create it with the partition key {PK} (S) and the sort \
                 key {LEASE_KEY} (S), \
                 or let it be created",
                self.name
            ))),
        }
    }

    /// Makes the table if it is missing, billed per request. A table that is there and cannot be recovered to a point in time is
    /// told and left: it may be somebody's choice, or a start that died between making it and asking for that.
    pub(super) async fn create_if_missing(&self, point_in_time_recovery: bool) -> Result<()> {
        if self.describe().await?.is_some() {
            self.active().await?;
            if point_in_time_recovery {
                self.tell_if_unrecoverable().await;
            }
            return Ok(());
        }
        let mut create = self.client.create_table().table_name(&self.name).billing_mode(BillingMode::PayPerRequest);
        for (name, kind) in [(PK, KeyType::Hash), (LEASE_KEY, KeyType::Range)] {
            let key = KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(broken)?;
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            create = create.key_schema(key).attribute_definitions(attribute.build().map_err(broken)?);
        }
        if let Err(error) = self.ask(create.send()).await?
            && code(&error) != Some("ResourceInUseException")
        {
            return Err(self.call("CreateTable").fault(&error));
        }
        self.active().await?;
        match point_in_time_recovery {
            true => self.make_recoverable().await,
            false => Ok(()),
        }
    }

    /// Turns point-in-time recovery on. A new table has its backups a while after it is active; until then nobody may ask. If
    /// that takes too long, the table is used without: it is said at this start and at every later one.
    async fn make_recoverable(&self) -> Result<()> {
        let on = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build().map_err(broken)?;
        let backups = self.client.update_continuous_backups().table_name(&self.name).point_in_time_recovery_specification(on);
        for attempt in 0..ACTIVE_TRIES {
            if attempt > 0 {
                tokio::time::sleep(self.every).await;
            }
            match self.ask(backups.clone().send()).await? {
                Ok(_) => return Ok(()),
                Err(error) if is_not_yet(&error) => {}
                Err(error) => return Err(self.call("UpdateContinuousBackups").fault(&error)),
            }
        }
        self.tell_unrecoverable("is not available after a minute");
        Ok(())
    }

    async fn tell_if_unrecoverable(&self) {
        let asked = self.ask(self.client.describe_continuous_backups().table_name(&self.name).send()).await;
        let answer = asked.and_then(|told| told.map_err(|error| self.call("DescribeContinuousBackups").fault(&error)));
        let description = match answer {
            Ok(answer) => answer.continuous_backups_description,
            // Not a reason to refuse the work: a policy of before may not allow the question.
            Err(fault) => {
                let table = &self.name;
                return tracing::warn!(table, %fault, "whether the rows can be recovered to a point in time is unknown");
            }
        };
        let recovery = description.and_then(|found| found.point_in_time_recovery_description);
        let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status);
        if status != Some(PointInTimeRecoveryStatus::Enabled) {
            self.tell_unrecoverable("is off");
        }
    }

    fn tell_unrecoverable(&self, what: &str) {
        tracing::warn!(
            table = self.name,
            "point-in-time recovery of the rows {what}: aws dynamodb update-continuous-backups --table-name {} \
             --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true, or make the table yourself and set \
             store.create_table = false",
            self.name
        );
    }

    /// One item, as it is now.
    pub(super) async fn get(&self, pk: &str, key: &str) -> Result<Option<Item>> {
        let get = self.client.get_item().table_name(&self.name).consistent_read(true).set_key(Some(keys(pk, key)));
        match self.ask(get.send()).await? {
            Ok(answer) => Ok(answer.item),
            Err(error) => Err(self.call("GetItem").fault(&error)),
        }
    }

    /// All items of one kind, by key, of all pages.
    pub(super) async fn query(&self, pk: &str) -> Result<Vec<Item>> {
        let mut expression = Expression::default();
        let condition = format!("{} = {}", expression.name(PK), expression.value(AttributeValue::S(pk.to_owned())));
        let (names, values) = expression.finish();
        let (mut found, mut start) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let query = self.client.query().table_name(&self.name).consistent_read(true).key_condition_expression(&condition);
            let query = query.set_expression_attribute_names(names.clone()).set_expression_attribute_values(values.clone());
            let page = match self.ask(query.set_exclusive_start_key(start.take()).send()).await? {
                Ok(page) => page,
                Err(error) => return Err(self.call("Query").fault(&error)),
            };
            found.extend(page.items.unwrap_or_default());
            match page.last_evaluated_key.filter(|key| !key.is_empty()) {
                Some(last) => start = Some(last),
                None => return Ok(found),
            }
        }
        Err(Fault::bug(format!("more than {PAGES_MAX} pages of rows {pk}")))
    }

    /// All items, of all pages, whatever the table's keys are.
    pub(super) async fn scan(&self) -> Result<Vec<Item>> {
        let (mut found, mut start) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let scan = self.client.scan().table_name(&self.name).consistent_read(true);
            let page = match self.ask(scan.set_exclusive_start_key(start.take()).send()).await? {
                Ok(page) => page,
                Err(error) if classify(&error) == Class::NotFound => {
                    return Err(Fault::config(format!("the DynamoDB table {} does not exist here", self.name)));
                }
                Err(error) => return Err(self.call("Scan").fault(&error)),
            };
            found.extend(page.items.unwrap_or_default());
            match page.last_evaluated_key.filter(|key| !key.is_empty()) {
                Some(last) => start = Some(last),
                None => return Ok(found),
            }
        }
        Err(Fault::config(format!("the DynamoDB table {} has more than {PAGES_MAX} pages: no lease table has", self.name)))
    }

    /// Writes a whole item under a condition.
    pub(super) async fn put(&self, item: Item, condition: Condition<'_>) -> Result<Wrote> {
        let mut expression = Expression::default();
        let condition = expression.condition(condition);
        let (names, values) = expression.finish();
        let put = self.client.put_item().table_name(&self.name).set_item(Some(item)).condition_expression(condition);
        let put = put.set_expression_attribute_names(names).set_expression_attribute_values(values);
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match self.ask(put.send()).await? {
            Ok(_) => Ok(Wrote::Done(None)),
            Err(error) => {
                use aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException as Failed;
                match error.as_service_error() {
                    Some(Failed(failed)) => Ok(Wrote::Refused(failed.item().cloned())),
                    Some(_) | None => Err(self.refused("PutItem", &error)),
                }
            }
        }
    }

    /// Changes some attributes of an item under a condition; answers the whole item.
    pub(super) async fn update(&self, pk: &str, key: &str, change: Change, condition: Condition<'_>) -> Result<Wrote> {
        let mut expression = Expression::default();
        let (change, condition) = (expression.change(change), expression.condition(condition));
        let (names, values) = expression.finish();
        let update = self.client.update_item().table_name(&self.name).set_key(Some(keys(pk, key)));
        let update = update.update_expression(change).condition_expression(condition).return_values(ReturnValue::AllNew);
        let update = update.set_expression_attribute_names(names).set_expression_attribute_values(values);
        let update = update.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match self.ask(update.send()).await? {
            Ok(answer) => Ok(Wrote::Done(answer.attributes)),
            Err(error) => {
                use aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException as Failed;
                match error.as_service_error() {
                    Some(Failed(failed)) => Ok(Wrote::Refused(failed.item().cloned())),
                    Some(_) | None => Err(self.refused("UpdateItem", &error)),
                }
            }
        }
    }

    /// Deletes an item under a condition.
    pub(super) async fn delete(&self, pk: &str, key: &str, condition: Condition<'_>) -> Result<Wrote> {
        let mut expression = Expression::default();
        let condition = expression.condition(condition);
        let (names, values) = expression.finish();
        let delete = self.client.delete_item().table_name(&self.name).set_key(Some(keys(pk, key)));
        let delete = delete.condition_expression(condition).set_expression_attribute_names(names);
        let delete = delete.set_expression_attribute_values(values);
        let delete = delete.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match self.ask(delete.send()).await? {
            Ok(_) => Ok(Wrote::Done(None)),
            Err(error) => {
                use aws_sdk_dynamodb::operation::delete_item::DeleteItemError::ConditionalCheckFailedException as Failed;
                match error.as_service_error() {
                    Some(Failed(failed)) => Ok(Wrote::Refused(failed.item().cloned())),
                    Some(_) | None => Err(self.refused("DeleteItem", &error)),
                }
            }
        }
    }

    fn refused<E>(&self, operation: &'static str, error: &SdkError<E, HttpResponse>) -> Fault
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let words = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default();
        if code(error) == Some("ValidationException") && words.contains("size has exceeded") {
            return Fault::config(format!("dynamodb {operation} of table {}: {ITEM_TOO_BIG}", self.name));
        }
        self.call(operation).fault(error)
    }
}

pub(super) fn keys(pk: &str, key: &str) -> Item {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    HashMap::from([(PK.to_owned(), text(pk)), (LEASE_KEY.to_owned(), text(key))])
}

fn broken(error: aws_sdk_dynamodb::error::BuildError) -> Fault {
    Fault::caused(Kind::Bug, "describing the table", &error)
}

/// What a table says of its backups while they are being made, or while somebody else changes them.
fn is_not_yet<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let unavailable = matches!(code(error), Some("ContinuousBackupsUnavailableException" | "TableInUseException"));
    let again = match classify(error) {
        Class::Throttled | Class::Unavailable | Class::NoAnswer | Class::Conflict => true,
        Class::Denied | Class::Unconfigured | Class::NotFound | Class::Invalid => false,
    };
    unavailable || again
}

fn check_keys(name: &str, found: &TableDescription) -> Result<()> {
    let keys: Vec<(&str, KeyType)> =
        found.key_schema().iter().map(|key| (key.attribute_name(), key.key_type().clone())).collect();
    let texts = |name: &str| {
        let mut definitions = found.attribute_definitions().iter();
        definitions.any(|found| found.attribute_name() == name && *found.attribute_type() == ScalarAttributeType::S)
    };
    if keys == [(PK, KeyType::Hash), (LEASE_KEY, KeyType::Range)] && texts(PK) && texts(LEASE_KEY) {
        return Ok(());
    }
    let hint = match keys == [(LEASE_KEY, KeyType::Hash)] {
        true => "; it looks like a lease table of the Kinesis Client Library, which cannot be shared",
        false => "",
    };
    let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
    Err(Fault::config(format!(
        "the DynamoDB table {name} has the keys {names:?} and not {PK} (S, partition) and {LEASE_KEY} (S, \
         sort){hint}: name another \
         table, or one that does not exist yet"
    )))
}

#[cfg(test)]
mod tests;
