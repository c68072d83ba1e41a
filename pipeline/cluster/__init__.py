"""Workers on other processes and machines, through Dask."""
