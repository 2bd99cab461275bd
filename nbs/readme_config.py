"""How nbs/index.ipynb becomes README.md: `make readme`, and the test that finds a stale README, both read this."""
from nbconvert.preprocessors import Preprocessor


class FromRoot(Preprocessor):
    "Links that lead out of nbs/, as they are from the root."
    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "markdown": cell.source = cell.source.replace("](../", "](")
        return cell, resources


c = get_config()  # noqa: F821, nbconvert puts it there
c.NbConvertApp.export_format = "markdown"
c.NbConvertApp.output_base = "README"
c.FilesWriter.build_directory = "."
c.MarkdownExporter.preprocessors = [FromRoot]
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_input_tags = {"hide"}
