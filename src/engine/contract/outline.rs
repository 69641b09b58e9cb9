//! The order in which a schema's text names its members: columns come in the order written.
//!
//! Owns: that order, by JSON pointer. Does not own: what the schema says (read).

use crate::engine::structure::{Broken, Kind, Structure, Token, text};

/// A schema's text and where its parts lie.
pub(super) struct Outline<'a> {
    text: &'a str,
    structure: Structure,
}

impl<'a> Outline<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self, Box<Broken>> {
        let mut structure = Structure::default();
        structure.scan(text.as_bytes())?;
        Ok(Self { text, structure })
    }

    /// Names of the members of the object at a pointer, in the order written; none if there is no object.
    pub(super) fn names(&self, pointer: &str) -> Vec<String> {
        let steps = pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
        let Some(place) = steps.into_iter().try_fold(0, |place, step| self.step(place, &step)) else {
            return Vec::new();
        };
        self.members(place).into_iter().map(|(name, _)| name).collect()
    }

    fn token(&self, place: usize) -> Option<Token> {
        self.structure.tokens().get(place).copied()
    }

    fn step(&self, place: usize, step: &str) -> Option<usize> {
        if self.token(place)?.kind() == Kind::Array {
            let first = place + 1;
            return (0..step.parse::<usize>().ok()?).try_fold(first, |place, _| Some(self.token(place)?.next as usize));
        }
        self.members(place).into_iter().find(|(name, _)| name == step).map(|(_, value)| value)
    }

    /// Names and the places of their values.
    fn members(&self, place: usize) -> Vec<(String, usize)> {
        let mut out = Vec::new();
        let Some(object) = self.token(place).filter(|token| token.kind() == Kind::Object) else {
            return out;
        };
        let mut at = place + 1;
        while at < object.next as usize {
            let (Some(name), Some(value)) = (self.token(at), self.token(at + 1)) else { break };
            out.push((text::unescaped(name, self.text).into_owned(), at + 1));
            at = value.next as usize;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_the_order_written_wherever_they_stand() {
        let outline = Outline::new(r#"{"z":{"b~/":[{},{"y":1,"x":{"q":2},"\u0061":3}]},"a":1}"#).expect("json");
        assert_eq!(outline.names(""), ["z", "a"]);
        assert_eq!(outline.names("/z/b~0~1/1"), ["y", "x", "a"]);
        assert_eq!(outline.names("/z/b~0~1/0"), [""; 0]);
        assert_eq!(outline.names("/nowhere"), [""; 0]);
    }
}
