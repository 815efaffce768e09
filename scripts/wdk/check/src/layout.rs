//! How records lie in memory: the rules that C and `repr(C)` share.

/// A member of a record, as deep in it as it may be; members of unnamed parts count as its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// With the names of the parts it is in: `Tail.Overlay.Thread`.
    pub name: String,
    /// From the beginning of the outermost record, in bytes.
    pub offset: usize,
    /// In bytes.
    pub size: usize,
}

/// Size and alignment of a type, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Size.
    pub size: usize,
    /// Alignment.
    pub align: usize,
}

impl Shape {
    /// Any pointer.
    pub const POINTER: Self = Self::scalar(8);

    /// A scalar is aligned to its size.
    #[must_use]
    pub const fn scalar(size: usize) -> Self {
        Self { size, align: if size == 0 { 1 } else { size } }
    }

    /// So many of this, one after the other.
    #[must_use]
    pub const fn times(self, count: usize) -> Self {
        Self { size: self.size * count, align: self.align }
    }
}

/// A record being laid out, or laid out.
#[derive(Clone, Debug)]
pub struct Record {
    /// Members in order.
    pub fields: Vec<Field>,
    union: bool,
    end: usize,
    align: usize,
}

impl Record {
    /// A record without members; of a union all begin at 0.
    #[must_use]
    pub const fn new(union: bool) -> Self {
        Self { fields: Vec::new(), union, end: 0, align: 1 }
    }

    /// Size and alignment, padding at the end included.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        Shape { size: self.end.next_multiple_of(self.align), align: self.align }
    }

    /// Raises the alignment.
    pub fn align_to(&mut self, align: usize) {
        self.align = self.align.max(align);
    }

    /// Adds a member.
    pub fn push(&mut self, name: &str, shape: Shape) {
        let offset = self.place(shape);
        self.fields.push(Field { name: name.to_owned(), offset, size: shape.size });
    }

    /// Adds a record as a member, and its members as `name.member`, or as our own without a name.
    pub fn push_record(&mut self, name: Option<&str>, inner: &Self) {
        let shape = inner.shape();
        let offset = self.place(shape);
        if let Some(name) = name {
            self.fields.push(Field { name: name.to_owned(), offset, size: shape.size });
        }
        for field in &inner.fields {
            let name =
                name.map_or_else(|| field.name.clone(), |name| format!("{name}.{}", field.name));
            self.fields.push(Field { name, offset: offset + field.offset, size: field.size });
        }
    }

    /// The next member's offset.
    fn place(&mut self, shape: Shape) -> usize {
        let offset = if self.union { 0 } else { self.end.next_multiple_of(shape.align) };
        self.end = self.end.max(offset + shape.size);
        self.align = self.align.max(shape.align);
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_records_padded() {
        let mut inner = Record::new(true);
        inner.push("word", Shape::scalar(4));
        inner.push("byte", Shape::scalar(1));
        let mut record = Record::new(false);
        record.push("a", Shape::scalar(1));
        record.push_record(None, &inner);
        record.push_record(Some("part"), &inner);
        record.push("p", Shape::POINTER);
        record.push("end", Shape::scalar(1).times(3));
        let offsets: Vec<_> = record.fields.iter().map(|f| (f.name.as_str(), f.offset)).collect();
        assert_eq!(
            offsets,
            [
                ("a", 0),
                ("word", 4),
                ("byte", 4),
                ("part", 8),
                ("part.word", 8),
                ("part.byte", 8),
                ("p", 16),
                ("end", 24)
            ]
        );
        assert_eq!(record.shape(), Shape { size: 32, align: 8 });
    }
}
