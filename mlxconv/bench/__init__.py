"""Measuring convolutions beside other libraries: `mlxconv bench`, and benchmarks/ in the sources.

shapes -> contest -> workers -> engines        what is measured, in turns, each in its process
          report, picture                      tables, Markdown, JSON; the roofline
"""
