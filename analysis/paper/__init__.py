"""The numbers that the paper reports: as a source like the store, in its tables, checked, and compared with ours.

Li, Qiu, Chen, Ji and Tong, "Beyond Log Likelihood" (arXiv 2510.00526), in its ICML 2026 edition (PDF of 2026-05-21).

The data, one CSV each:
- reported.csv: every number of Tables 1 to 3 and 5 to 10, of Figures 1 and 5 to 7 and of the text. `place`: where it
  stands; `how`: whether it is printed there, digitised from the figure (then within `tolerance`, in the unit of the
  value), or had from a third party. `printed`: the backbone's name as printed where that is another model's.
- claims.csv: what the text says of such numbers, and from which of them it can be computed.
- benchmarks.csv: questions and samples per benchmark, their title in the tables, and whether their column is reported.
- hyperparameters.csv: what is known of Table 4, from the paper and where it says otherwise from the authors' code.
"""
