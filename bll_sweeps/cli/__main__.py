from bll_sweeps.cli import main

main()
