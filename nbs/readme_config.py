"""How nbs/index.ipynb becomes README.md: `make readme`, and the test that finds a stale README, both read this."""
c = get_config()  # noqa: F821, nbconvert puts it there
c.NbConvertApp.export_format = "markdown"
c.NbConvertApp.output_base = "README"
c.NbConvertApp.output_files_dir = "figures/readme"
c.FilesWriter.build_directory = "."
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_input_tags = {"hide"}
