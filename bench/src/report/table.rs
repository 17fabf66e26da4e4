//! A table as aligned text and as Markdown.

pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|&text| text.to_owned()).collect(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.row_of(cells.into());
    }

    pub fn row_of(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.head.len(), "as many cells as the head has");
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Columns of figures to the right, words to the left; marks of emphasis are left out.
    pub fn plain(&self) -> String {
        let columns = self.head.len();
        let rows = || std::iter::once(&self.head).chain(&self.rows);
        let cell = |row: &Vec<String>, at: usize| row[at].replace("**", "");
        let widths: Vec<usize> =
            (0..columns).map(|at| rows().map(|row| cell(row, at).chars().count()).max().unwrap_or(0)).collect();
        let is_figures: Vec<bool> = (0..columns).map(|at| self.is_figures(at)).collect();
        let mut text = String::new();
        for row in rows() {
            let mut line = String::new();
            for at in 0..columns {
                let (cell, width) = (cell(row, at), widths[at]);
                line += &if is_figures[at] { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let safe = |row: &[String]| row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        let rule = (0..self.head.len()).map(|at| if self.is_figures(at) { "--:" } else { "---" }.to_owned()).collect();
        line(safe(&self.head)) + &line(rule) + &self.rows.iter().map(|row| line(safe(row))).collect::<String>()
    }

    /// Whether most of a column's cells are figures.
    fn is_figures(&self, at: usize) -> bool {
        let told = self.rows.iter().map(|row| row[at].as_str()).filter(|cell| !cell.is_empty() && *cell != "–");
        let is_figure = |cell: &&str| cell.chars().all(|c| c.is_ascii_digit() || " .,+-()×*%".contains(c));
        let (figures, words): (Vec<&str>, Vec<&str>) = told.partition(is_figure);
        figures.len() > words.len()
    }
}
